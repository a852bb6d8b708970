"""A pair of PostgreSQL servers under Patroni, with etcd, all on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.daemon import free_port
from tests.support.polling import until
from tests.support.postgres import as_owner, binaries, owner

UNPACKED = os.environ.get("KMSD_TEST_PATRONI", "")
"""Folder with the unpacked packages `patroni` and `etcd-server` and what they need; empty: they are installed."""
TTL = 20
"""Seconds, the least that Patroni takes: so long after the leader's last word another server may be promoted."""


def found(name: str) -> Path | None:
    """A program of the packages."""
    path = shutil.which(name, path=f"{UNPACKED}/usr/bin" if UNPACKED else None)
    return None if path is None else Path(path)


def is_installed() -> bool:
    """True if all that is needed is there."""
    return found("patroni") is not None and found("etcd") is not None and binaries() is not None


def configuration(name: str, ports: Sequence[int], etcd: int, folder: Path) -> str:
    """A patroni.yml. `ports` are those of the server and of Patroni."""
    server, rest = ports
    return f"""
scope: kmsd
name: {name}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
etcd3: {{hosts: "127.0.0.1:{etcd}"}}
bootstrap:
  dcs:
    ttl: {TTL}
    loop_wait: 2
    retry_timeout: 5
    synchronous_mode: true
    master_start_timeout: 0
    postgresql: {{use_pg_rewind: true, parameters: {{max_connections: 200, wal_log_hints: "on", autovacuum: "off"}}}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}]
postgresql:
  listen: "127.0.0.1:{server}"
  connect_address: "127.0.0.1:{server}"
  data_dir: {folder / "data"}
  bin_dir: {binaries()}
  pgpass: {folder / "pgpass"}
  authentication:
    superuser: {{username: kmsd, password: x}}
    replication: {{username: replicator, password: x}}
    rewind: {{username: rewinder, password: x}}
  parameters: {{unix_socket_directories: {folder}}}
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
"""


class Member:
    """One server, and the Patroni that runs it."""

    def __init__(self, name: str, etcd: int) -> None:
        self.name, self.folder = name, _folder()
        self.port, self.rest = free_port(), free_port()
        (self.folder / "patroni.yml").write_text(configuration(name, (self.port, self.rest), etcd, self.folder))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run Patroni, which starts the server."""
        program = found("patroni")
        assert program is not None
        self.process = _run(["/usr/bin/python3", program, self.folder / "patroni.yml"], self.folder)

    def run_sql(self, statement: str) -> str:
        """What psql prints; empty if the server does not answer."""
        folder = binaries()
        assert folder is not None
        command = [
            folder / "psql",
            "-h",
            self.folder,
            "-p",
            self.port,
            "-U",
            "kmsd",
            "-AtX",
            "-c",
            statement,
            "postgres",
        ]
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=2)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.decode().strip()

    @property
    def leads(self) -> bool:
        """True if it accepts writes."""
        return self.run_sql("SELECT pg_is_in_recovery()") == "f"

    @property
    def is_synchronous_standby(self) -> bool:
        """True if Patroni would promote it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/synchronous", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def signal_all(self, number: int) -> None:
        """Send a signal to Patroni and the server, with all their processes: as if it were to the host."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def signal_patroni(self, number: int) -> None:
        """Send a signal to Patroni alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def _processes(self) -> list[int]:
        assert self.process is not None
        roots = [self.process.pid]
        with suppress(OSError, ValueError):
            roots.append(int((self.folder / "data/postmaster.pid").read_text().split()[0]))
        return [pid for root in roots for pid in (root, *_children(root))]

    def kill_server(self) -> None:
        """End the server alone, at once."""
        pid = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        for one in (pid, *_children(pid)):
            os.kill(one, signal.SIGSTOP)
        for one in (pid, *_children(pid)):
            os.kill(one, signal.SIGKILL)

    def switch_over(self) -> None:
        """Ask Patroni to make the other member the leader. Waits until it has."""
        body = json.dumps({"leader": self.name}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest}/switchover", body)
        urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 (as above)

    def kill(self) -> None:
        """As if the host lost power."""
        self.signal_all(signal.SIGSTOP)  # then none of them starts another
        self.signal_all(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(30)
        (self.folder / "data/postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End all, and remove it."""
        if self.process is not None and self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Pair:
    """Two members; the first one leads at first."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    @property
    def leader(self) -> Member:
        """The one that accepts writes; waits until there is one."""
        until(lambda: any(one.leads for one in self.members), 120)
        return next(one for one in self.members if one.leads)

    def wait_until_synchronous(self) -> None:
        """Until the leader waits for the other one with each commit, and Patroni knows: else it promotes nobody."""
        until(lambda: any(one.is_synchronous_standby for one in self.members), 120)


def _children(pid: int) -> list[int]:
    try:
        found_here = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [one for child in found_here for one in (child, *_children(child))]


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kmsd-patroni-"))
    folder.chmod(0o755)
    os.chown(folder, owner().pw_uid, owner().pw_gid)
    return folder


def _run(command: Sequence[object], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{UNPACKED}/usr/lib/python3/dist-packages" if UNPACKED else ""}
    as_user: dict[str, Any] = as_owner()
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=folder, env=environment, **as_user)


@contextmanager
def patroni_pair() -> Iterator[Pair]:
    """A primary and its synchronous standby, which Patroni promotes."""
    with ExitStack() as stack:
        client, peer, folder = free_port(), free_port(), _folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        urls = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        program = found("etcd")
        assert program is not None
        etcd = _run(
            [
                *(program, "--name", "one", "--data-dir", folder / "data"),
                *("--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]),
                *("--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1]),
                *("--initial-cluster", f"one={urls[1]}"),
            ],
            folder,
        )
        stack.callback(etcd.wait)
        stack.callback(etcd.kill)
        members = [Member(name, client) for name in ("db1", "db2")]  # not `first`: PostgreSQL has that word
        for one in members:
            stack.callback(one.stop)
            one.start()
            until(lambda one=one: one.run_sql("SELECT 1") == "1", 120)  # type: ignore[misc]
        pair = Pair(members)
        pair.wait_until_synchronous()
        yield pair
