"""The daemon as users run it: a process, on a socket, over a SoftHSM2 token of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmsd.daemon import worker_spec
from tests.support.audit_trail import trail_records
from tests.support.clients import ACCOUNT, REGION, Credentials, client
from tests.support.polling import until
from tests.support.postgres import cluster
from tests.support.tokens import TokenPlace, nss, softhsm

_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody else is given before a daemon listens on it.

    It stays bound in this process: then the kernel gives it to no connection, and a daemon, which sets SO_REUSEADDR as
    well, can listen there as often as it likes.
    """
    return _reserve(0)


def free_ports(count: int) -> int:
    """The first of several such ports, one after the other."""
    while True:
        first = free_port()
        with suppress(OSError, OverflowError):
            for number in range(1, count):
                _reserve(first + number)
            return first


def _reserve(port: int) -> int:
    probe = socket.socket()
    _reserved.append(probe)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", port))
    return int(probe.getsockname()[1])


def import_section(folder: Path, place: TokenPlace) -> str:
    """The table of kmsd.toml that names the token at `place` as the import token."""
    return _token_section("[import_token]", folder / "import-pin", place)


def further_section(folder: Path, place: TokenPlace, name: str, serves: Sequence[str]) -> str:
    """A table of kmsd.toml that adds the token at `place`."""
    listed = ", ".join(f'"{spec}"' for spec in serves)
    table = _token_section("[[tokens]]", folder / f"{name}-pin", place)
    return f'{table}name = "{name}"\nserves = [{listed}]\n'


def _token_section(header: str, pin_file: Path, place: TokenPlace) -> str:
    pin_file.write_bytes(place.pin)
    pin_file.chmod(0o600)
    environment = ", ".join(f'{name} = "{value}"' for name, value in place.environment.items())
    return (
        f'{header}\nmodule = "{place.module}"\nlabel = "{place.label}"\npin_file = "{pin_file}"\n'
        f'init_reserved = "{place.init_reserved or ""}"\ndir_sync = "{place.objects}"\n'
        f"environment = {{ {environment} }}\n"
    )


CUSTODY = os.environ.get("KMSD_TEST_CUSTODY", "object")
"""Custody of key material in tests that do not choose it: with `wrapped`, all of them run in that."""


STORE = os.environ.get("KMSD_TEST_STORE", "sqlite")
"""Database of tests that do not choose it: with `postgresql`, all of them run on that."""


def write_config(
    folder: Path, place: TokenPlace, port: int, *, workers: int = 1, extra: str = "", custody: str = CUSTODY
) -> Path:
    """A kmsd.toml for the token at `place`; `extra` is TOML that follows."""
    if STORE == "postgresql" and "[store]" not in extra:
        extra = f'{extra}\n[store]\nurl = "{cluster().url()}"\n'
    pin_file = folder / "pin"
    pin_file.write_bytes(place.pin)
    pin_file.chmod(0o600)
    environment = ", ".join(f'{name} = "{value}"' for name, value in place.environment.items())
    path = folder / "kmsd.toml"
    path.write_text(
        f'data_dir = "{folder / "data"}"\nregion = "{REGION}"\naccount = "{ACCOUNT}"\nworkers = {workers}\n'
        # Tests end daemons whose clients rest.
        f'[listen]\naddress = "127.0.0.1:{port}"\ndrain_seconds = 0.1\n'
        f'[token]\nmodule = "{place.module}"\nlabel = "{place.label}"\npin_file = "{pin_file}"\n'
        f'dir_sync = "{place.objects}"\ncustody = "{custody}"\nenvironment = {{ {environment} }}\n{extra}\n'
    )
    return path


WELL = {"status": "ok", "token": "ok", "store": "ok", "audit": "ok", "logs": "ok"}
"""What `/readyz` says when all is well."""


@dataclass
class Daemon:
    """A configured daemon; `start` and `stop` as often as a test likes."""

    folder: Path
    place: TokenPlace
    port: int
    config: Path
    admin: Credentials = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / "data"

    def cli(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run `kmsd --config … ARGUMENTS`."""
        command = [sys.executable, "-m", "kmsd", "--config", str(self.config), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)
        # The clock of a test host may be synchronised or not: `kmsd check` warns (1), and fails with 2.
        fine = (0, 1) if arguments[:1] == ("check",) else (0,)
        if check and done.returncode not in fine:
            raise AssertionError(f"{arguments}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}")
        return done

    def user(self, name: str, policy: dict[str, Any] | None = None, account: str = ACCOUNT) -> Credentials:
        """A new user with an access key."""
        arguments = ["user", "create", name, "--account", account, "--format", "json"]
        if policy is not None:
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps(policy))
            arguments += ["--policy", str(path)]
        return credentials_of(self.cli(*arguments).stdout)

    def client(self, service: str = "kms", credentials: Credentials | None = None, **options: Any) -> Any:
        """A boto3 client, of the administrator if nobody else is named."""
        return client(self.endpoint, credentials or self.admin, service, **options)

    def start(self, *, ready: bool = True) -> None:
        """Run `kmsd serve`; wait until it answers and all its workers have started."""
        command = [sys.executable, "-m", "kmsd", "--config", str(self.config), "serve"]
        log = (self.folder / "serve.log").open("ab")
        before = log.tell()
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        if ready:
            self.wait_ready(since=before)

    def wait_ready(self, seconds: float = 30, since: int | None = None) -> None:
        """Until `/readyz` says yes; also until the log says, from byte `since` on, that every worker serves.

        Raises AssertionError with the log if that never happens.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            if (since is None or self._says_ready(since)) and self.get("/readyz")[0] == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"not ready:\n{self.log()}")

    def _says_ready(self, since: int) -> bool:
        return b'"event": "ready"' in (self.folder / "serve.log").read_bytes()[since:]

    def get(self, path: str) -> tuple[int, dict[str, str]]:
        """Status and JSON body of an unsigned GET; status 0 if nobody listens."""
        try:
            with urllib.request.urlopen(self.endpoint + path, timeout=5) as answer:  # noqa: S310 (our own address)
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def log(self) -> str:
        """What it has logged so far."""
        path = self.folder / "serve.log"
        return path.read_text() if path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log lines of one event; a line that is being written counts when it is whole."""
        whole = self.log().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return [pid for pid in self.children() if name_of(pid).startswith(worker_spec.WORKER)]

    def children(self) -> list[int]:
        """Process ids of all that it has started, and that have not ended."""
        if self.process is None:
            return []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, gently by default; its exit status."""
        if self.process is None:
            return 0
        workers = self.workers() if self.process.poll() is None else []
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.process = None
        deadline = time.monotonic() + 30
        while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        return status

    def kill(self) -> None:
        """As when the host's power goes: parent and workers at once."""
        if self.process is not None:
            self.signal_all(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def signal_all(self, number: int) -> None:
        """Send a signal to parent and workers: SIGSTOP freezes them, SIGCONT lets them go on."""
        if self.process is not None:
            for pid in (self.process.pid, *self.children()):
                os.kill(pid, number)

    def audit_records(self) -> list[dict[str, Any]]:
        """Everything in the audit trail."""
        return trail_records(self.data / "audit")


def eventually(holds: Callable[[], bool], daemon: Daemon, seconds: float = 60) -> None:
    """Wait until something holds. Raises AssertionError with the daemon's log if it never does."""
    until(holds, seconds, otherwise=daemon.log)


def name_of(pid: int) -> str:
    """What the kernel calls a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def credentials_of(printed: bytes) -> Credentials:
    """What `--format json` prints."""
    fields = json.loads(printed)
    return Credentials(fields["AccessKeyId"], fields["SecretAccessKey"], fields["Arn"])


@contextmanager
def provisioned(
    folder: Path,
    *,
    workers: int = 1,
    extra: str = "",
    import_token: bool = False,
    reach: Callable[[TokenPlace], TokenPlace] = lambda place: place,
    custody: str = CUSTODY,
) -> Iterator[Daemon]:
    """A daemon that is set up and not started; stopped, if it runs, at the end.

    With NSS as its import token, if asked. `reach` may put something between the daemon and its token. With the custody
    `wrapped` there are two domain keys.
    """
    with ExitStack() as stack:
        place = reach(stack.enter_context(softhsm(folder / "token")))
        if import_token:
            helper = stack.enter_context(nss(folder / "import-token"))
            extra = f"{extra}\n{import_section(folder, helper)}"
        port = free_port()
        config = write_config(folder, place, port, workers=workers, extra=extra, custody=custody)
        daemon = Daemon(folder, place, port, config)
        daemon.admin = credentials_of(daemon.cli("init", "--format", "json").stdout)
        if custody == "wrapped":
            pin_file = folder / "so-pin"
            pin_file.write_bytes(place.so_pin)
            daemon.cli("domain-key", "create", "--count", "2", "--so-pin-file", str(pin_file))
        try:
            yield daemon
        finally:
            daemon.stop()
