"""Credentials as the units of systemd name them, drop-ins included."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.linux import systemd_units


@pytest.fixture(name="says")
def _says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `systemctl` prints, whatever it is asked."""
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/says\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "says"


def test_the_unit_and_its_drop_ins(says: Path) -> None:
    """The last word counts; an empty assignment ends both lists; comments, sections, continued lines, specifiers."""
    says.write_text(
        "# /usr/local/lib/systemd/system/kmsd.service\n[Unit]\nLoadCredential=no:/one\n"
        "[Service]\nLoadCredential=pin:/etc/kmsd/credentials/pin\nLoadCredential=gone:/x\n"
        "# LoadCredential=commented:/x\nLoadCredential=\n"
        "\n# /etc/systemd/system/kmsd.service.d/a.conf\n[Service]\n"
        "LoadCredentialEncrypted=\\\n  pin:%E/kmsd/100%%.cred\nLoadCredential = tls-key:/etc/key\nLoadCredential=bare\n"
    )
    assert systemd_units.credential_sources() == {
        "pin": systemd_units.Source(Path("/etc/kmsd/100%.cred"), encrypted=True),
        "tls-key": systemd_units.Source(Path("/etc/key"), encrypted=False),
        "bare": systemd_units.Source(Path("bare"), encrypted=False),
    }


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("LoadCredential=other:/x", "kmsd.service is given no credential pin: add LoadCredential=pin:"),
        ("LoadCredential=pin:/nowhere/pin", "/nowhere/pin cannot be read: No such file or directory"),
        ("LoadCredential=pin", "takes the credential pin from pin, which is not the path of a file"),
        ("LoadCredential=pin:%d/x", "only systemd knows what %d stands for"),
    ],
)
def test_what_cannot_be_fetched(says: Path, line: str, why: str) -> None:
    """The reason names the unit and the file."""
    says.write_text(f"[Service]\n{line}\n")
    with pytest.raises(systemd_units.UnitError) as refused:
        systemd_units.credential("pin")
    assert why in str(refused.value)


def test_a_host_without_systemd(says: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program of that name; and one that fails, by its last words."""
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'No files found for kmsd.service.' >&2\nexit 1\n")
    with pytest.raises(systemd_units.UnitError, match=r"systemctl cat failed: No files found for kmsd\.service\."):
        systemd_units.credential("pin")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(systemd_units.UnitError, match="systemctl is not installed"):
        systemd_units.socket_addresses()
