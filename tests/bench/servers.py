"""The servers that the benchmarks compare: the ceiling, and daemons set up in different ways."""

from __future__ import annotations

import base64
import compileall
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kmsd as package
from tests.bench import wrk
from tests.support import shim
from tests.support.daemon import Daemon, free_port, provisioned

PLAINTEXT = base64.b64encode(b"x" * 32).decode()


@dataclass
class Site:
    """A server under load, and the processes whose time and memory count."""

    endpoint: str
    encrypt: wrk.Replay
    pids: list[int]
    daemon: Daemon | None = None
    key_id: str = ""

    def signed(self, operation: str, members: dict[str, object]) -> wrk.Replay:
        """A request of the administrator."""
        assert self.daemon is not None
        return wrk.signed(self.endpoint, self.daemon.admin, operation, members)

    def cpu_seconds(self) -> float:
        """User and system time of its processes so far, to the microsecond: clock_getcpuclockid(3) of each."""
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self.pids)

    def memory(self) -> float:
        """Proportional set size of its processes, in MiB."""
        return proportional_size(self.pids)

    def whole_memory(self) -> float:
        """The same with all that a daemon runs besides its workers."""
        if self.daemon is None or self.daemon.process is None:
            return self.memory()
        return proportional_size([self.daemon.process.pid, *self.daemon.children()])


def proportional_size(pids: Iterable[int]) -> float:
    """Of these processes together, in MiB: what several share counts once."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def make_bytecode() -> None:
    """As pip does where kmsd is installed: a start is not to compile."""
    compileall.compile_dir(next(iter(package.__path__)), quiet=1)


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Until something answers there. Raises AssertionError."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 (our own address)
        except urllib.error.HTTPError as answer:
            answer.close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{url} does not answer") from None
            time.sleep(0.005)
            continue
        return


@contextmanager
def ceiling(like: wrk.Replay) -> Iterator[Site]:
    """The bare handler, asked with the same bytes."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.ceiling", str(port)])
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        endpoint = f"http://127.0.0.1:{port}"
        yield Site(endpoint, wrk.Replay(f"{endpoint}/", like.headers, like.body), [process.pid])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def kmsd(
    folder: Path,
    *,
    workers: int = 2,
    token_delay: float | None = None,
    tls: tuple[Path, Path] | None = None,
    extra: str = "",
) -> Iterator[Site]:
    """A daemon with one key; `extra` is more of kmsd.toml.

    `token_delay` puts the tests' shim before the token: seconds for each encryption. `tls`: certificate and key to
    serve HTTPS with.
    """
    folder.mkdir()
    with provisioned(folder, workers=workers, extra=extra) as daemon:
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        daemon.stop()
        environment: dict[str, str] = {}
        text = daemon.config.read_text()
        if token_delay is not None:
            environment |= shimmed(daemon, token_delay)
            text = text.replace(f'module = "{daemon.place.module}"', f'module = "{shim.build(folder)}"')
        if tls is not None:
            text = text.replace("[token]", f'tls_certificate = "{tls[0]}"\ntls_key = "{tls[1]}"\n[token]')
        daemon.config.write_text(text)
        with changed(environment):
            served = daemon.log().count(SERVING)
            daemon.start(ready=False)
        wait_for_log(daemon, served)
        endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{daemon.port}"
        encrypt = wrk.signed(endpoint, daemon.admin, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})
        yield Site(endpoint, encrypt, daemon.workers(), daemon, key_id)


def shimmed(daemon: Daemon, token_delay: float) -> dict[str, str]:
    """What tells the shim which module stands behind it, and how long each encryption takes."""
    return {
        "KMSD_SHIM_MODULE": str(daemon.place.module),
        "KMSD_SHIM_DELAYS": f"{int(shim.Function.ENCRYPT)}:{int(token_delay * 1e6)}",
    }


SERVING = '"event": "ready"'
"""What the parent logs once all workers serve."""


def wait_for_log(daemon: Daemon, served: int) -> None:
    """Until the daemon has said once more than `served` times that it serves."""
    end = time.monotonic() + 60
    while daemon.log().count(SERVING) <= served:
        if time.monotonic() > end or (daemon.process is not None and daemon.process.poll() is not None):
            raise AssertionError(f"not ready:\n{daemon.log()}")
        time.sleep(0.01)


@contextmanager
def changed(environment: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
