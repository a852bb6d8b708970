"""A small systemd: runs the service of a unit file as systemd would, as far as tests need it.

It speaks sd_notify(3), sd_listen_fds(3) and the credentials of systemd.exec(5), holds the listening socket, runs
ExecReload=, and honours nothing else of the unit.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


class Unit:
    """One service and its socket."""

    def __init__(self, service: Path, folder: Path, port: int, paths: Mapping[str, str] | None = None) -> None:
        """`paths` are replaced in what the unit says; the rest of it stands as it is."""
        text = service.read_text()
        for old, new in (paths or {}).items():
            text = text.replace(old, new)
        self._settings = [line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w*=", line)]
        self._folder = folder
        self._credentials = folder / "run-credentials"
        self.log = folder / "unit.log"
        self.listener = socket.create_server(("127.0.0.1", port))
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(folder / "notify.sock"))
        self.process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}

    def settings(self, name: str) -> list[str]:
        """All values of a setting."""
        return [value for key, value in self._settings if key == name]

    def start(self) -> None:
        """Until READY=1."""
        shutil.rmtree(self._credentials, ignore_errors=True)
        self._credentials.mkdir(mode=0o700)
        for credential in self.settings("LoadCredential"):
            name, path = credential.split(":", 1)
            shutil.copyfile(path, self._credentials / name)
            (self._credentials / name).chmod(0o400)
        runtime = self._folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        self._environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "RUNTIME_DIRECTORY": str(runtime),
            "NOTIFY_SOCKET": str(self._folder / "notify.sock"),
            "WATCHDOG_USEC": str(int(float(self.settings("WatchdogSec")[0]) * 1e6)),
            "CREDENTIALS_DIRECTORY": str(self._credentials),
            "LISTEN_FDS": "1",
        }
        # sd_listen_fds(3): the socket is descriptor 3, and LISTEN_PID must be the daemon's own.
        (command,) = self.settings("ExecStart")
        shell = f"exec 3<&{self.listener.fileno()}; export LISTEN_PID=$$; exec {shlex.join(shlex.split(command))}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", shell],
                env=self._environment,
                pass_fds=(self.listener.fileno(),),
                stdout=log,
                stderr=log,
                cwd="/",
            )
        self.wait_for("READY=1")

    def wait_for(self, state: str, seconds: float = 60) -> list[str]:
        """The lines of the first notice that has `state`. Raises AssertionError with the log if none comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._notices.settimeout(0.2)
            try:
                lines = self._notices.recv(4096).decode().splitlines()
            except TimeoutError:
                if self.process is None or self.process.poll() is not None:
                    break
                continue
            if state in lines:
                return lines
        raise AssertionError(f"no {state}:\n{self.log.read_text()}")

    def reload(self) -> list[str]:
        """As ExecReload= says; the notice that ends it."""
        (command,) = self.settings("ExecReload")
        assert self.process is not None
        environment = {**self._environment, "MAINPID": str(self.process.pid)}
        subprocess.run(shlex.split(command), env=environment, cwd="/", check=True, capture_output=True)
        reloading = self.wait_for("RELOADING=1")
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in reloading)
        return self.wait_for("READY=1")

    def stop(self) -> int:
        """SIGTERM to the main process (KillMode=mixed); its exit status. The socket goes on listening."""
        if self.process is None:
            return 0
        assert self.settings("KillMode") == ["mixed"]
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(float(self.settings("TimeoutStopSec")[0]))
        self.process = None
        return status

    def systemctl(self, line: str) -> None:
        """A command of a page, as systemctl would carry it out."""
        match line.split()[1:]:
            case ["enable", "--now", "kmsd.socket", "kmsd.service"]:
                self.start()
            case ["reload", "kmsd.service"]:
                self.reload()
            case ["restart", "kmsd.service"]:
                assert self.stop() == 0
                self.start()
            case _:
                raise AssertionError(f"not known here: {line}")

    def close(self) -> None:
        """Stop, and close the socket."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.wait(60)
        self.listener.close()
        self._notices.close()
