"""What reading Python leaves in a process that is then forked again and again (kmsd.daemon.fork_server)."""

from __future__ import annotations

import os
import subprocess
import sys

from kmsd.audit.record import new_event_id
from kmsd.wire.http.messages import new_request_id

DRAWN = """
import os, secrets, sys
places = []
def told(draw):
    def draws(*given):
        frame = sys._getframe(1)
        while frame is not None and "kmsd" not in frame.f_globals.get("__name__", ""):
            frame = frame.f_back
        places.append("another" if frame is None else frame.f_globals["__name__"])
        return draw(*given)
    return draws
os.urandom, secrets.token_bytes = told(os.urandom), told(secrets.token_bytes)
from kmsd.daemon import fork_server
fork_server.preload_modules()
print(*sorted(set(places)))
print(len(os.listdir("/proc/self/task")))
"""
REDRAWN = {"kmsd.audit.record"}
"""Modules that draw at import, and draw anew in a child."""
SHARED = {"kmsd.wire.sigv4.claim"}
"""Modules whose number may be the same in all workers."""


def in_a_child(make: str) -> str:
    """What a forked child of a process that has made some already makes next."""
    program = f"""
import os
from kmsd.audit.record import new_event_id
from kmsd.wire.http.messages import new_request_id
{make}()
parent = os.fork()
if parent:
    os.wait()
print({make}())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


def test_ids_of_a_forked_process_are_its_own() -> None:
    """Two that were forked from the same memory would else give the same, one after the other."""
    for make in (new_event_id, new_request_id):
        ours, theirs = in_a_child(make.__name__).split()
        assert ours[:18] != theirs[:18]


def test_nobody_draws_a_number_that_workers_would_share() -> None:
    """Whoever adds one at import: draw it anew after a fork (os.register_at_fork), and name the module here."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWN], capture_output=True, check=True, timeout=60, env={**os.environ}
    )
    (drawn, threads) = done.stdout.decode().splitlines()
    assert set(drawn.split()) <= REDRAWN | SHARED
    assert threads.startswith("1")
