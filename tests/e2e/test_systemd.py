"""Under systemd: its own verifier and score, and the protocols, spoken by a small supervisor."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import provisioned

UNITS = Path(__file__).parents[2] / "systemd"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def test_the_security_score() -> None:
    """1.5 or lower, by systemd's own count."""
    command = ["systemd-analyze", "security", "--offline=true", str(UNITS / "kmsd.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Overall exposure level for kmsd.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.5


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    """Every directive is one that systemd knows; the program is put where the unit expects it."""
    for name in ("kmsd.service", "kmsd.socket"):
        text = (UNITS / name).read_text().replace("/opt/kmsd/bin/kmsd", "/bin/true")
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "kmsd.service"), str(tmp_path / "kmsd.socket")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "kmsd" in line]
    assert complaints == []


@pytest.mark.parametrize("example", sorted(path.name for path in (UNITS / "kmsd.service.d").glob("*.example")))
def test_the_drop_ins(tmp_path: Path, example: str) -> None:
    """Each is one that systemd reads, and the unit still scores 1.5 or lower with it."""
    text = (UNITS / "kmsd.service").read_text().replace("/opt/kmsd/bin/kmsd", "/bin/true")
    # `security --offline` reads no drop-ins; appended, a section goes on where it was left.
    (tmp_path / "kmsd.service").write_text(
        text.replace("[Install]", (UNITS / "kmsd.service.d" / example).read_text() + "[Install]")
    )
    (tmp_path / "kmsd.socket").write_text((UNITS / "kmsd.socket").read_text())
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "kmsd.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert [line for line in done.stderr.splitlines() if "kmsd" in line] == []
    command = ["systemd-analyze", "security", "--offline=true", str(tmp_path / "kmsd.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Overall exposure level for kmsd.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.5


def test_notify_socket_activation_and_credentials(tmp_path: Path) -> None:
    """READY when it serves, WATCHDOG while it lives, STOPPING when it ends; on a passed socket, with a passed PIN.

    An address in kmsd.toml that is not the socket's is named as not used.
    """
    with provisioned(tmp_path, workers=1) as daemon:
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (tmp_path / "pin").rename(credentials / "pin")
        text = daemon.config.read_text().replace(str(tmp_path / "pin"), "credential:pin")
        daemon.config.write_text(text.replace(f":{daemon.port}", ":1"))
        listener = socket.create_server(("127.0.0.1", daemon.port))
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(60)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "600000",
            "CREDENTIALS_DIRECTORY": str(credentials),
            "LISTEN_FDS": "1",
        }
        # sd_listen_fds(3): the socket is descriptor 3, and LISTEN_PID must be the daemon's own.
        serve = f"exec {sys.executable} -m kmsd --config {daemon.config} serve"
        shell = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$; {serve}"
        log = (tmp_path / "serve.log").open("ab")
        daemon.process = subprocess.Popen(
            ["bash", "-c", shell], env=environment, pass_fds=(listener.fileno(),), stdout=log, stderr=log
        )
        log.close()
        while (notice := notices.recv(4096)) == b"WATCHDOG=1":
            pass
        assert b"READY=1" in notice, daemon.log()
        assert notices.recv(4096) == b"WATCHDOG=1"
        assert notices.recv(4096) == b"WATCHDOG=1"
        assert daemon.client().create_key()["KeyMetadata"]["Enabled"]
        (told,) = [line for line in daemon.log().splitlines() if "listen_address_ignored" in line]
        assert "127.0.0.1:1" in told
        assert f"127.0.0.1:{daemon.port}" in told
        assert daemon.stop() == 0
        said = [notices.recv(4096) for _ in range(1)]
        while said[-1] == b"WATCHDOG=1":
            said.append(notices.recv(4096))
        assert said[-1] == b"STOPPING=1"
        notices.close()
        listener.close()


def test_a_credential_without_systemd_is_a_clear_error(tmp_path: Path) -> None:
    """It says what to type, or which unit is missing; commands that read no PIN work."""
    with provisioned(tmp_path) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace(str(tmp_path / "pin"), "credential:pin"))
        assert b"FAIL credential:pin: " in daemon.cli("check", check=False).stdout
        refused = daemon.cli("user", "create", "alice", check=False)
        assert refused.returncode == 78
        assert b"credential:pin: systemctl" in refused.stderr
        assert b"user/admin" in daemon.cli("user", "list").stdout
        daemon.cli("check", "--no-token")
