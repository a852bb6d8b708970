"""A PostgreSQL of the tests' own: one cluster for a test process, one database for a test."""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.polling import until

BINARIES = Path("/usr/lib/postgresql")
_OWNER = "postgres"
"""User that Debian's package makes: PostgreSQL refuses to run as root."""


def binaries() -> Path | None:
    """The newest PostgreSQL that is installed."""
    found = sorted(BINARIES.glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


class Cluster:
    """A running server on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        found = binaries()
        assert found is not None, "PostgreSQL is missing (Debian: apt-get install postgresql)"
        self.binaries, self.folder, self.data = found, folder, folder / "data"
        self.user = pwd.getpwnam(_OWNER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        folder.chmod(0o755)
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
            os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        self._run(
            "initdb", "-N", "-A", "trust", "-U", "kmsd", "--no-instructions", "-E", "UTF8", "--locale=C", self.data
        )
        self.process = self._start()

    def _as_owner(self) -> dict[str, object]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def _run(self, name: str, *arguments: object) -> str:
        command = [str(self.binaries / name), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self.folder, **self._as_owner())  # type: ignore[call-overload]
        assert done.returncode == 0, done
        return str(done.stdout.decode())

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {"unix_socket_directories": self.folder, "listen_addresses": "", "autovacuum": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                [str(self.binaries / "postgres"), "-D", str(self.data), *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_owner(),
            )
        until(self.answers, otherwise=(self.folder / "log").read_text)
        return process

    def answers(self) -> bool:
        """Whether it accepts connections."""
        command = [str(self.binaries / "pg_isready"), "-q", "-h", str(self.folder), "-U", "kmsd"]
        return subprocess.run(command, check=False).returncode == 0

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{secrets.token_hex(8)}"
        self._run("createdb", "-h", self.folder, "-U", "kmsd", name)
        return f"postgresql://kmsd@/{name}?host={self.folder}"

    def stop(self) -> None:
        """End it, and remove everything."""
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def cluster() -> Cluster:
    """The cluster of this process."""
    found = Cluster(Path(tempfile.mkdtemp(prefix="kmsd-postgres-")))
    atexit.register(found.stop)
    return found
