"""A PostgreSQL of the tests' own: one cluster for a test process, one database for a test."""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from kmsd.adapters.postgres.settings import DEFAULT_PORT, DatabaseUrl, Host, PostgresSettings
from tests.support.polling import until

BINARIES = Path("/usr/lib/postgresql")
_OWNER = "postgres"
"""User that Debian's package makes: PostgreSQL refuses to run as root."""


def binaries() -> Path | None:
    """The newest PostgreSQL that is installed."""
    found = sorted(BINARIES.glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


def owner() -> pwd.struct_passwd:
    """The user that runs servers."""
    return pwd.getpwnam(_OWNER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def as_owner() -> dict[str, Any]:
    """Options of `subprocess` that run a program as this user."""
    if os.geteuid() != 0:
        return {}
    return {"user": owner().pw_uid, "group": owner().pw_gid, "extra_groups": []}


@dataclass(frozen=True)
class Network:
    """How a server is reached at 127.0.0.1: with TLS alone, and by password; or without TLS, by everybody."""

    port: int
    tls: tuple[Path, Path] | None = None
    """Certificate and key."""


class Cluster:
    """A running server: on a Unix socket, and on the network if asked."""

    def __init__(
        self, folder: Path, primary: Cluster | None = None, network: Network | None = None, superuser: str = "kmsd"
    ) -> None:
        found = binaries()
        assert found is not None, "PostgreSQL is missing (Debian: apt-get install postgresql)"
        self.binaries, self.folder, self.data = found, folder, folder / "data"
        self.user = owner()
        self.network, self.superuser = network, superuser
        folder.chmod(0o755)
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
            os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        if primary is None:
            options = ("-N", "-A", "trust", "-U", superuser, "--no-instructions", "-E", "UTF8", "--locale=C")
            self._run("initdb", *options, self.data)
            if network is not None and network.tls is not None:
                self._require_tls(*network.tls)
        else:
            self._run("pg_basebackup", "-R", "-N", "-c", "fast", *primary._reached, "-D", self.data)
        self.process = self._start()

    def _run(self, name: str, *arguments: object) -> str:
        command = [str(self.binaries / name), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self.folder, **as_owner())  # type: ignore[call-overload]
        assert done.returncode == 0, done
        return str(done.stdout.decode())

    def _start(self) -> subprocess.Popen[bytes]:
        settings: dict[str, object] = {
            "unix_socket_directories": self.folder,
            "listen_addresses": "" if self.network is None else "127.0.0.1",
            "autovacuum": "off",
        }
        if self.network is not None:
            settings["port"] = self.port
            if self.network.tls is not None:
                settings |= {"ssl": "on", "ssl_cert_file": "cert.pem", "ssl_key_file": "key.pem"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                [str(self.binaries / "postgres"), "-D", str(self.data), *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **as_owner(),
            )
        until(self.answers, otherwise=(self.folder / "log").read_text)
        return process

    @property
    def port(self) -> int:
        """Its port, which the name of its socket has, too."""
        return DEFAULT_PORT if self.network is None else self.network.port

    @property
    def _reached(self) -> tuple[object, ...]:
        """Options of PostgreSQL's programs that name this server."""
        return ("-h", self.folder, "-p", self.port, "-U", self.superuser)

    def _require_tls(self, certificate: Path, key: Path) -> None:
        for source, name in ((certificate, "cert.pem"), (key, "key.pem")):
            place = self.data / name
            shutil.copy(source, place)
            place.chmod(0o600)
            os.chown(place, self.user.pw_uid, self.user.pw_gid)
        (self.data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")

    def answers(self) -> bool:
        """Whether it accepts connections."""
        command = [self.binaries / "pg_isready", "-q", *self._reached]
        return subprocess.run(list(map(str, command)), check=False).returncode == 0

    def start(self) -> None:
        """Start it again, after `kill`."""
        self.process = self._start()

    def kill(self) -> None:
        """End it as a loss of power would: all its processes at once."""
        self.freeze()  # then it starts no more of them
        self._signal(signal.SIGKILL)
        self.process.wait(30)
        (self.data / "postmaster.pid").unlink()  # it would be taken for that of a server that runs

    def freeze(self) -> None:
        """Stop all its processes. They still hold their connections, and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, number)

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def run_sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints without decoration."""
        return self._run("psql", *self._reached, "-AtX", "-c", statement, database).strip()

    def standby(self, network: Network | None = None) -> Cluster:
        """A standby of this server, on which each commit waits from now on."""
        found = Cluster(_folder(), self, network)
        until(lambda: self.run_sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1")
        # Not earlier: the standby could not be copied from a server that waits for it.
        self.run_sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.run_sql("SELECT pg_reload_conf()")
        until(lambda: self.run_sql("SELECT sync_state FROM pg_stat_replication") == "sync")
        return found

    def promote(self) -> None:
        """Make a standby the primary. It waits for no standby: it has none."""
        self._run("pg_ctl", "promote", "-w", "-D", self.data)

    def cut_off(self) -> None:
        """End a standby's connection to its primary, which goes on, and whose commits wait for it from now on."""
        self.run_sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.run_sql("SELECT pg_reload_conf()")
        until(lambda: self.run_sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0")

    def database(self) -> PostgresSettings:
        """A new, empty database."""
        name = f"test_{secrets.token_hex(8)}"
        self._run("createdb", *self._reached, name)
        return PostgresSettings(DatabaseUrl("kmsd", (Host(str(self.folder), self.port),), name))

    def url(self) -> str:
        """The same for kmsd.toml."""
        return f"postgresql://kmsd@/{self.database().url.database}?host={self.folder}"

    def stop(self) -> None:
        """End it, if it runs, and remove everything."""
        if self.process.poll() is None:
            self.thaw()
            self.process.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed any more
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def new_cluster(network: Network | None = None, superuser: str = "kmsd") -> Cluster:
    """A server that its caller stops."""
    return Cluster(_folder(), network=network, superuser=superuser)


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="kmsd-postgres-"))


@cache
def cluster() -> Cluster:
    """The cluster of this process."""
    found = new_cluster()
    atexit.register(found.stop)
    return found


async def connect(settings: PostgresSettings) -> asyncpg.Connection:
    """A connection of another program to the first host."""
    host = settings.url.hosts[0]
    return await asyncpg.connect(host=host.name, port=host.port, user=settings.url.user, database=settings.url.database)
