"""The command line as root: the caller's files are read and written as root, everything else as the data's owner."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.custody.domain_key_transfer import decoded_request, transfer_text
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, credentials_of, provisioned
from tests.support.key_ceremonies import accepting, listed
from tests.support.software_transfer import transfer_of

NOBODY = 65534
POLICY = json.dumps({"Statement": [{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]})
SYSTEMCTL = """#!/bin/sh
# systemctl, as far as kmsd asks it: the unit and the properties are files beside it.
folder=$(dirname "$0")
case "$1 $2" in
    "cat kmsd.service") cat "$folder/unit" ;;
    "show kmsd.service") [ "$4" != User ] || exec echo User=nobody; cat "$folder/service-properties" ;;
    "show kmsd.socket") cat "$folder/socket-properties" ;;
    *) exit 1 ;;
esac
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="ONLY ROOT CAN BECOME ANOTHER USER: nothing of this is tested"
)


@pytest.fixture(name="owned", scope="module")
def _owned() -> Iterator[Daemon]:
    """A daemon whose data, token and PIN belong to another user."""
    folder = Path(tempfile.mkdtemp(prefix="kmsd-as-root-"))
    folder.chmod(0o755)  # pytest's own folders are root's alone
    try:
        with provisioned(folder, workers=1) as daemon:
            for path in (folder / "data", folder / "token", folder / "pin"):
                subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(path)], check=True)
            yield daemon
    finally:
        shutil.rmtree(folder)


@pytest.fixture(name="unit")
def _unit(owned: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a `systemctl` and what it says; kmsd.toml names the PIN as a credential of root's."""
    folder = tmp_path / "systemd"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    shutil.copyfile(owned.folder / "pin", secrets / "pin")
    (secrets / "pin").chmod(0o600)
    (folder / "unit").write_text(f"[Service]\nLoadCredential=pin:{secrets}/pin\n")
    (folder / "service-properties").write_text(f"ExecStart={{ argv[]=kmsd --config {owned.config} serve ; pid=0 }}\n")
    (folder / "socket-properties").write_text(f"Listen=127.0.0.1:{owned.port} (Stream)\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    text = owned.config.read_text()
    owned.config.write_text(text.replace(str(owned.folder / "pin"), "credential:pin"))
    yield folder
    owned.config.write_text(text)


def roots_files(daemon: Daemon) -> list[Path]:
    """What belongs to root among data and token."""
    places = [daemon.data, *daemon.data.rglob("*"), *(daemon.folder / "token").rglob("*")]
    return [path for path in places if path.stat().st_uid == 0]


def roots_alone(path: Path, text: str) -> Path:
    """A file in a folder that nobody else can enter."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_files_of_the_caller(owned: Daemon, tmp_path: Path) -> None:
    """A policy that root alone may read, from a file, standard input and a pipe; a secret in a file of root's own."""
    policy = roots_alone(tmp_path / "private" / "billing.json", POLICY)
    secret = tmp_path / "private" / "billing.json.key"
    made = owned.cli("user", "create", "billing", "--policy", str(policy), "--format", "json", "--output", str(secret))
    credentials = credentials_of(secret.read_bytes())
    assert credentials.arn == f"arn:aws:iam::{ACCOUNT}:user/billing"
    assert credentials.secret.encode() not in made.stdout + made.stderr
    assert credentials.access_key_id.encode() in made.stdout
    found = secret.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    owned.cli("user", "put-policy", "billing", "--policy", "-", stdin=POLICY.encode())
    owned.cli("user", "put-policy", "billing", "--policy", "/dev/stdin", stdin=POLICY.encode())
    assert roots_files(owned) == []
    records = [one for one in owned.audit_records() if one["eventName"] == "CreateUser"]
    assert {(one["userIdentity"]["uid"], one["userIdentity"]["userName"]) for one in records} == {(0, "root")}


def test_an_output_that_exists_or_is_not_needed(owned: Daemon, tmp_path: Path) -> None:
    """Nothing is overwritten; a command that fails leaves no empty file, although it runs as another user by then."""
    taken = roots_alone(tmp_path / "private" / "taken", "precious")
    refused = owned.cli("access-key", "create", "admin", "--output", str(taken), check=False)
    assert (refused.returncode, taken.read_text()) == (73, "precious")
    assert f"{taken} exists already" in refused.stderr.decode()
    unused = tmp_path / "private" / "unused"
    for arguments, status in ((("user", "create", "admin"), 73), (("access-key", "create", "missing"), 66)):
        assert owned.cli(*arguments, "--output", str(unused), check=False).returncode == status
        assert not unused.exists()
    done = owned.cli("init", "--output", str(unused))
    assert b"nothing to do" in done.stderr
    assert not unused.exists()


def test_files_of_a_transfer(owned: Daemon, tmp_path: Path) -> None:
    """Request, transfer and PIN of the security officer are in a folder of root's, the token is the data's owner's."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    with accepting(owned, private) as accept:
        assert accept.request.stat().st_uid == 0
        public_key = decoded_request(accept.request.read_bytes()).public_key
        transfer = transfer_of(public_key, [bytes(range(32))])
        roots_alone(accept.transfer, transfer_text(transfer))
        accept.shows("Confirmation code that")
        accept.type(transfer.code)
        assert accept.process.wait(60) == 0, accept.log()
    assert set(listed(owned).values()) == {("next", "0 materials", "present")}
    assert roots_files(owned) == []


def test_the_daemon_and_its_workers(owned: Daemon) -> None:
    """`kmsd serve` by root: no process of it keeps root's rights."""
    owned.start()
    try:
        assert owned.process is not None
        for pid in (owned.process.pid, *owned.children()):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            ids = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("Uid:", "Gid:", "CapEff:"))}
            assert ids["Uid:"] == ids["Gid:"] == [str(NOBODY)] * 4, pid
            assert int(ids["CapEff:"][0], 16) == 0
        kms = owned.client()
        assert kms.create_key()["KeyMetadata"]["Enabled"]
        kms.close()
    finally:
        owned.stop()
    assert roots_files(owned) == []


def test_a_backup_into_a_missing_folder(owned: Daemon, tmp_path: Path) -> None:
    """It is made for the daemon's user, and private; the backup, and the trail, are checked with root's own files."""
    folder = owned.folder / "backups"
    owned.cli("backup", str(folder))
    found = folder.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0o700)
    (backup,) = folder.iterdir()
    kept = tmp_path / "kept.backup"
    shutil.move(backup, kept)
    kept.chmod(0o600)
    key = roots_alone(tmp_path / "private" / "audit-key.pem", owned.cli("audit", "public-key").stdout.decode())
    assert b"this was a check" in owned.cli("restore", "--check", "--audit-key", str(key), str(kept)).stdout
    piped = owned.cli("restore", "--check", "-", stdin=kept.read_bytes())
    assert b"ok   standard input: " in piped.stdout
    anchor = roots_alone(tmp_path / "private" / "anchor", owned.cli("audit", "checkpoints").stdout.decode())
    owned.cli("audit", "verify", "--public-key", str(key), "--anchor", str(anchor))
    assert roots_files(owned) == []


def test_a_backup_into_a_folder_that_the_daemons_user_cannot_write(owned: Daemon, tmp_path: Path) -> None:
    """One sentence names the folder, the user and the way out."""
    shut = owned.folder / "shut"
    shut.mkdir(mode=0o755, exist_ok=True)
    refused = owned.cli("backup", str(shut), check=False)
    assert refused.returncode == 78
    said = refused.stderr.decode()
    assert f"the folder {shut} cannot be written by nobody, who makes the backup: chown nobody {shut}" in said
    assert list(shut.iterdir()) == []
    missing = owned.cli("backup", str(tmp_path / "missing" / "deeper"), check=False)
    assert (missing.returncode, f"{tmp_path / 'missing'} does not exist" in missing.stderr.decode()) == (66, True)


def test_credentials_come_from_the_unit(owned: Daemon, unit: Path) -> None:
    """Without $CREDENTIALS_DIRECTORY: a file that root alone may read; commands that read no PIN need none."""
    owned.cli("access-key", "create", "admin")
    owned.cli("check")
    (unit / "unit").write_text("[Service]\nUser=kmsd\n")
    refused = owned.cli("access-key", "create", "admin", check=False)
    assert refused.returncode == 78
    assert b"kmsd.service is given no credential pin: add LoadCredential=pin:" in refused.stderr
    for command in (("user", "list"), ("role", "list"), ("access-key", "list", "admin"), ("key", "list"), ("migrate",)):
        owned.cli(*command)
    owned.cli("audit", "verify")
    owned.cli("check", "--no-token")


def test_sealed_credentials_come_from_the_unit(owned: Daemon, unit: Path) -> None:
    """LoadCredentialEncrypted= in a drop-in; an empty assignment ends what was before it."""
    sealed = unit.parent / "secrets" / "pin.sealed"
    seal = ["systemd-creds", "--with-key=tpm2-absent", "encrypt", "--name=pin", "-", str(sealed)]
    pin = unit.parent / "secrets" / "pin"
    done = subprocess.run(seal, input=pin.read_bytes(), capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("systemd-creds seals nothing on this host")
    with (unit / "unit").open("a") as file:
        file.write(
            f"\n# /etc/systemd/system/kmsd.service.d/sealed.conf\n[Service]\nLoadCredential=\n\n"
            f"LoadCredentialEncrypted=\\\n  pin:{sealed}\n"
        )
    pin.unlink()
    owned.cli("access-key", "create", "admin")


def test_another_user_is_told_what_to_type(owned: Daemon, unit: Path) -> None:
    """Whoever is not root cannot fetch credentials; the sentence is the command."""
    command = [sys.executable, "-m", "kmsd", "--config", str(owned.config), "user", "create", "x", "--tag", "a=b c"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 78
    again = f"run it as root: sudo kmsd --config {owned.config} user create x --tag 'a=b c'"
    assert again in done.stderr.decode()


def test_check_looks_behind_the_credentials(owned: Daemon, unit: Path) -> None:
    """Modes and owner of the files that systemd reads; the socket's address beside the configuration's."""
    pin = unit.parent / "secrets" / "pin"

    def bad() -> list[str]:
        done = owned.cli("check", "--json", "--no-token", check=False)
        shown = json.loads(done.stdout)["findings"]
        return [
            f"{one['severity']} {one['text']}"
            for one in shown
            if one["topic"] in {"files", "unit"} and (one["severity"] in {"warn", "FAIL"})
        ]

    assert bad() == []
    for mode, says in ((0o644, "can be read by others than root (mode 0644)"), (0o620, "can be written by others")):
        pin.chmod(mode)
        (line,) = bad()
        assert line.startswith(f"FAIL {pin}, from which systemd takes credential:pin, ")
        assert says in line
        assert f"chmod 600 {pin}" in line
    pin.chmod(0o600)
    os.chown(pin, NOBODY, NOBODY)
    (line,) = bad()
    assert "belongs to nobody" in line
    os.chown(pin, 0, 0)
    (unit / "socket-properties").write_text("Listen=0.0.0.0:8443 (Stream)\n")
    differs, unnamed = bad()
    assert f"warn [listen] address is 127.0.0.1:{owned.port}, and kmsd.socket listens on 0.0.0.0:8443" in differs
    assert "warn public_url is not set" in unnamed
    (unit / "service-properties").write_text("ExecStart={ argv[]=kmsd --config /etc/another.toml serve }\n")
    assert bad() == []


def test_init_makes_the_data_directory_for_the_units_user(owned: Daemon, unit: Path) -> None:
    """It is not left to root, who could not start the daemon with it; the token is that of another database."""
    text = owned.config.read_text()
    elsewhere = owned.folder / "new-disk" / "kmsd"
    elsewhere.parent.mkdir()
    owned.config.write_text(text.replace(str(owned.data), str(elsewhere)))
    try:
        refused = owned.cli("init", check=False)
        assert refused.returncode == 73
        owned.cli("init", "--beside")
    finally:
        owned.config.write_text(text)
    assert {path.stat().st_uid for path in (elsewhere, *elsewhere.rglob("*"))} == {NOBODY}
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    shutil.rmtree(elsewhere.parent)
