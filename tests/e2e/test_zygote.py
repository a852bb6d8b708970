"""Workers are forked from a zygote: whoever dies, the others go on, and nobody stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kmsd.daemon import fork_server
from tests.support.daemon import Daemon, eventually, name_of, provisioned
from tests.support.faulty_token import bent_daemon
from tests.support.shim import Function, compiler


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start(ready=False)
        eventually(lambda: daemon.log().count('"event": "ready"') == 1, daemon)
        yield daemon


def zygote_of(daemon: Daemon) -> int:
    """Process id; 0 if it has none at the moment."""
    return next((pid for pid in daemon.children() if name_of(pid) == fork_server.NAME), 0)


def alive(pid: int) -> bool:
    """Whether it runs."""
    return name_of(pid) != "" and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_do_not_hang_on_the_zygote(daemon: Daemon) -> None:
    """Killed, it is replaced; the workers that it forked serve on, and the next one is forked by its successor."""
    workers, first = daemon.workers(), zygote_of(daemon)
    time.sleep(max(0.0, 5.5 - age(first)))  # one that dies young is replaced with the next worker
    os.kill(first, signal.SIGKILL)
    eventually(lambda: zygote_of(daemon) not in (0, first), daemon)
    assert daemon.workers() == workers
    assert daemon.client().list_keys()["Keys"] == []
    os.kill(workers[0], signal.SIGKILL)
    eventually(lambda: len(set(daemon.workers()) - set(workers)) == 1, daemon)
    daemon.wait_ready()
    assert daemon.stop() == 0


def age(pid: int) -> float:
    """Seconds since it was started."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def test_all_workers_and_the_zygote_die_at_once(daemon: Daemon) -> None:
    """Whoever orders the next worker finds no zygote, and makes one."""
    before = set(daemon.children())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(set(daemon.workers()) - before) == 2, daemon)
    daemon.wait_ready()
    assert zygote_of(daemon)


@pytest.mark.parametrize("turn", range(6))
def test_a_zygote_that_dies_while_it_is_asked(daemon: Daemon, turn: int) -> None:
    """At any moment of a worker's birth: the worker comes all the same, and is one."""
    workers, first = daemon.workers(), zygote_of(daemon)
    os.kill(workers[0], signal.SIGKILL)
    time.sleep(0.09 + turn * 0.005)  # a dead worker is started anew after 0.1 s
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(daemon.workers()) == 2 and workers[0] not in daemon.workers(), daemon)
    daemon.wait_ready()
    time.sleep(0.3)
    assert len(daemon.workers()) == 2
    assert daemon.stop() == 0


def test_a_zygote_that_hangs_is_replaced(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon stops within its time, even if no worker could be started."""
    hanging = zygote_of(daemon)
    os.kill(hanging, signal.SIGSTOP)
    os.kill(daemon.workers()[0], signal.SIGKILL)
    daemon.wait_ready()
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 10
    assert not alive(hanging)


def test_nobody_outlives_the_parent(daemon: Daemon) -> None:
    """Killed alone, it takes the zygote and the workers along."""
    family = daemon.children()
    assert len(family) == 3
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    daemon.process = None
    eventually(lambda: not any(map(alive, family)), daemon)


def test_started_without_standard_streams(tmp_path: Path) -> None:
    """Low numbers then belong to other descriptors: it serves all the same, and nobody outlives the daemon."""
    with provisioned(tmp_path, workers=1) as daemon:
        start = f"exec {sys.executable} -m kmsd --config {daemon.config} serve 2>>{tmp_path}/serve.log <&- >&-"
        daemon.process = subprocess.Popen(["sh", "-c", start])
        daemon.wait_ready()
        family = daemon.children()
        assert len(family) == 2
        daemon.process.kill()
        daemon.process.wait()
        daemon.process = None
        eventually(lambda: not any(map(alive, family)), daemon)


def test_the_zygote_holds_nothing(daemon: Daemon) -> None:
    """Neither the socket of the clients, nor the configuration, nor the lock of the data directory; nor its successor.

    The first is a fork of the daemon, the second a program of its own.
    """
    first = zygote_of(daemon)
    assert_holds_nothing(first, daemon)
    time.sleep(max(0.0, 5.5 - age(first)))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: zygote_of(daemon) not in (0, first), daemon)
    eventually(lambda: "uvloop" in Path(f"/proc/{zygote_of(daemon)}/maps").read_text(), daemon)
    assert_holds_nothing(zygote_of(daemon), daemon)


def assert_holds_nothing(pid: int, daemon: Daemon) -> None:
    """But the channel by which it takes orders. While it imports, a file is open for a moment now and then."""
    eventually(lambda: len(open_files(pid, daemon)) == 1, daemon)
    assert open_files(pid, daemon).pop().startswith("socket:")
    assert "softhsm" not in Path(f"/proc/{pid}/maps").read_text()
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def open_files(pid: int, daemon: Daemon) -> set[str]:
    """What a process has open, apart from its standard streams."""
    held = set[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(str(entry.readlink()))
    return {each for each in held if not each.startswith(("/dev/null", str(daemon.folder / "serve.log")))}


def test_a_program_that_a_module_starts_inherits_nothing(daemon: Daemon) -> None:
    """Every descriptor of a worker is closed by execve, the listening socket among them.

    But for files that SoftHSM opens for a moment: what is inherited is what is found at each of several looks.
    """
    looks = []
    for _ in range(5):
        looks.append({entry for pid in daemon.workers() for entry in inherited_by_programs(pid)})
        time.sleep(0.1)
    assert set.intersection(*looks) == set()


def inherited_by_programs(pid: int) -> Iterator[tuple[int, str, str]]:
    """Descriptors of a process, standard ones apart, that execve leaves open: process, number, what it is."""
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            flags = next(line.split()[1] for line in entry.read_text().splitlines() if line.startswith("flags:"))
            if int(entry.name) > 2 and not int(flags, 8) & os.O_CLOEXEC:
                yield pid, entry.name, str((Path(f"/proc/{pid}/fd") / entry.name).readlink())


def test_what_workers_draw_differs(daemon: Daemon) -> None:
    """Request ids, keys' ids and nonces of one worker are not those of another that was forked from the same memory."""
    seen: set[str] = set()
    answered = 0
    for turn in range(40):
        headers = (
            daemon.client().create_key()["ResponseMetadata"]["HTTPHeaders"] if turn % 10 == 0 else unsigned(daemon)
        )
        seen.add(headers["x-amzn-requestid"])
        answered += 1
    assert len(seen) == answered
    records = daemon.audit_records()
    ids = [record["eventID"] for record in records]
    assert len(set(ids)) == len(ids)


def unsigned(daemon: Daemon) -> dict[str, str]:
    """The headers of a refusal, by a connection of its own: any worker may answer."""
    command = ["curl", "--silent", "--include", "--request", "POST", "--data", "{}", daemon.endpoint]
    text = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.decode()
    lines = [line.split(": ", 1) for line in text.split("\r\n\r\n")[0].split("\r\n")[1:]]
    return {name.lower(): value for name, value in lines}


def test_an_interrupt_of_the_terminal_reaches_all(tmp_path: Path) -> None:
    """As Ctrl-C does: the daemon stops, and nothing complains."""
    with provisioned(tmp_path, workers=2) as daemon:
        command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "serve"]
        with (tmp_path / "serve.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        daemon.process = process
        eventually(lambda: daemon.log().count('"event": "ready"') == 1, daemon)
        family = daemon.children()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        daemon.process = None
        eventually(lambda: not any(map(alive, family)), daemon)
        assert "Traceback" not in daemon.log()
        assert "died" not in daemon.log()


def test_a_stop_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """Nobody is left behind who would hold the socket: it can be bound at once, and the data directory locked."""
    with provisioned(tmp_path, workers=3) as daemon:
        for turn in range(12):
            daemon.start(ready=False)
            assert daemon.process is not None
            eventually(lambda: daemon.children() != [], daemon)
            if turn % 2:
                eventually(lambda: daemon.workers() != [], daemon)
            time.sleep(turn * 0.02)
            family = daemon.children()
            daemon.process.terminate()
            status = daemon.process.wait(30)
            assert status in (0, -signal.SIGTERM), daemon.log()
            daemon.process = None
            assert status != 0 or not any(map(alive, family))
            eventually(lambda family=family: not any(map(alive, family)), daemon)  # type: ignore[misc]
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", daemon.port))
        assert "Traceback" not in daemon.log()


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_a_stop_in_the_middle_of_a_login(tmp_path: Path) -> None:
    """The call into the token is finished first: SoftHSM's token would else be gone, and no start find it again."""
    with bent_daemon(tmp_path) as (daemon, shim):
        shim.hang(Function.LOGIN, on=True)
        daemon.start(ready=False)
        eventually(lambda: shim.hung == 1, daemon)
        assert daemon.process is not None
        daemon.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(0.5)
        shim.hang(Function.LOGIN, on=False)
        assert daemon.process.wait(30) == 0
        daemon.process = None
        assert "Traceback" not in daemon.log()
