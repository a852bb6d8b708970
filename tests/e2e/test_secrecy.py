"""What a process of kmsd holds stays in it: no core, no look into its memory by others of the same user."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NOBODY = 65534
WAITING = "import sys; open(sys.argv[1]).read()"
LOOK = "import sys; open(f'/proc/{sys.argv[1]}/mem', 'rb')"

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@contextmanager
def waiting(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """`command` with the name of a pipe that nobody writes to, as another user who may dump cores of any size."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    child = subprocess.Popen(
        [*(str(pipe) if part == "PIPE" else part for part in command)],
        cwd=folder,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=_allow_cores,  # noqa: PLW1509 (no threads are started before it)
    )
    other_side = -1
    try:
        deadline = time.monotonic() + 30
        while other_side < 0:
            assert child.poll() is None
            assert time.monotonic() < deadline
            with suppress(OSError):  # ENXIO: it has not opened its side yet
                other_side = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(other_side)
        shutil.rmtree(folder)


def _allow_cores() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))


def may_look(pid: int) -> bool:
    """Whether another process of the same user can open its memory."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(pid)], user=NOBODY, group=NOBODY, extra_groups=[], check=False, stderr=-1
    )
    assert done.returncode == 0 or b"PermissionError" in done.stderr
    return done.returncode == 0


def dumps_core(child: subprocess.Popen[bytes]) -> bool:
    """Whether it leaves a core when it is told to."""
    child.send_signal(signal.SIGABRT)
    _, status = os.waitpid(child.pid, 0)
    child.returncode = -signal.SIGABRT
    return os.WCOREDUMP(status)


KMSD = (sys.executable, "-m", "kmsd", "--config", "PIPE", "check")


def test_nobody_looks_into_the_memory_of_a_process() -> None:
    """Not even the same user; a process that does nothing about it can be read, so the test means something."""
    with waiting(sys.executable, "-c", WAITING, "PIPE") as plain:
        if not may_look(plain.pid):
            pytest.skip("this host forbids it for all processes (kernel.yama.ptrace_scope)")
    with waiting(*KMSD) as ours:
        assert not may_look(ours.pid)


def test_no_core_is_dumped() -> None:
    """Whatever the limits were when it was started."""
    with waiting(sys.executable, "-c", WAITING, "PIPE") as plain:
        if not dumps_core(plain):
            pytest.skip("this host writes no cores at all")
    with waiting(*KMSD) as ours:
        assert not dumps_core(ours)


def test_workers_have_no_cores_either(tmp_path: Path) -> None:
    """The limit is the kernel's word for a worker that serves."""
    from tests.support.daemon import provisioned  # noqa: PLC0415

    with provisioned(tmp_path) as daemon:
        daemon.start()
        assert daemon.process is not None
        for pid in (daemon.process.pid, *daemon.workers()):
            limits = Path(f"/proc/{pid}/limits").read_text()
            (line,) = (one for one in limits.splitlines() if one.startswith("Max core"))
            assert line.split()[4:6] in (["1", "1"], ["0", "0"])
