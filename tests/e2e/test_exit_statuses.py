"""What a script can tell from an exit status, and a person from the sentence beside it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, credentials_of, provisioned
from tests.support.file_systems import small_disk

POLICY = {"Statement": [{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]}


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("statuses"), workers=1) as daemon:
        yield daemon


def refused(daemon: Daemon, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit status and standard error of a command that prints nothing else."""
    done = daemon.cli(*arguments, check=False, stdin=stdin)
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("check --jsn", 64, "unrecognized arguments: --jsn"),
        ("usr list", 64, "invalid choice: 'usr'"),
        ("user create two/names", 64, "a name has 1 to 64 letters"),
        ("user create x --account 1", 64, "an account is 12 digits, not '1'"),
        ("role create x --trust - --policy -", 64, "standard input can be named once only"),
        ("user create x --policy -", 65, "standard input: "),
        ("user create x --policy /nowhere.json", 66, "/nowhere.json cannot be read: No such file or directory"),
        ("user create x --policy /", 66, "/ cannot be read: Is a directory"),
        ("user put-policy missing --policy POLICY", 66, f"there is no user missing in account {ACCOUNT}"),
        ("user delete missing", 66, "there is no user missing"),
        ("access-key list missing", 66, "there is no user missing"),
        ("access-key disable AKIAMISSING", 66, "there is no access key AKIAMISSING"),
        ("access-key delete AKIAMISSING", 66, "there is no access key AKIAMISSING"),
        ("role delete missing", 66, "there is no role missing"),
        ("user create admin", 73, "there is a user admin in account 000000000000 already"),
        ("open-blob", 65, "standard input: this is no ciphertext blob"),
        ("restore /nowhere.backup", 66, "/nowhere.backup cannot be read: No such file or directory"),
        ("restore --check POLICY", 65, "this is no backup of kmsd"),
        ("audit verify /nowhere", 66, "/nowhere cannot be read: No such file or directory"),
        ("--config /nowhere.toml user list", 78, "/nowhere.toml does not exist; name another with --config"),
    ],
)
def test_kinds_of_failures(own: Daemon, arguments: str, status: int, says: str) -> None:
    """Each has its status, and a sentence that names the thing; nothing comes from SQLite, errno or msgspec alone."""
    policy = own.folder / "policy.json"
    policy.write_text(json.dumps(POLICY))
    words = [str(policy) if word == "POLICY" else word for word in arguments.split()]
    found, said = refused(own, *words, stdin=b"no policy, and no blob")
    assert (found, says in said) == (status, True), said
    assert "constraint" not in said


def test_a_setting_that_is_unknown(own: Daemon) -> None:
    """The name that may have been meant, or the table in which it is known; all of them at once."""
    text = own.config.read_text()
    own.config.write_text(f'data_dri = "/x"\ntls_key = "/k"\n{text}\n[audit]\nfile_byte = 1\n')
    try:
        status, said = refused(own, "user", "list")
    finally:
        own.config.write_text(text)
    assert status == 78
    assert "there is no setting data_dri; did you mean data_dir?" in said
    assert "there is no setting tls_key; it belongs under [listen]" in said
    assert "[audit] has no setting file_byte; did you mean file_bytes?" in said


def test_actions_that_are_unknown(own: Daemon, tmp_path: Path) -> None:
    """A warning where a policy is given and where an action is asked about; a finding where one is stored."""
    policy = tmp_path / "typo.json"
    policy.write_text(json.dumps(POLICY).replace("kms:ListKeys", "kms:Encrpt"))
    warned = own.cli("user", "create", "typist", "--policy", str(policy))
    complaint = "kms:Encrpt is not an action of AWS; did you mean kms:Encrypt?"
    assert f"kmsd: warning: {policy}: Statement[0]: {complaint}" in warned.stderr.decode()
    found = own.cli("check", "--no-token").stdout.decode()
    assert f"warn arn:aws:iam::{ACCOUNT}:user/typist: policy typo: {complaint} (Statement[0])" in found
    principal = f"arn:aws:iam::{ACCOUNT}:user/admin"
    asked = own.cli("explain", "--principal", principal, "--action", "kms:Encrpt")
    assert f"kmsd: warning: {complaint}" in asked.stderr.decode()
    own.cli("user", "delete", "typist")


def test_an_account_that_was_changed(own: Daemon) -> None:
    """Users belong to the one before: `kmsd check` warns."""
    text = own.config.read_text()
    own.config.write_text(text.replace(f'account = "{ACCOUNT}"', 'account = "111122223333"'))
    try:
        found = own.cli("check", "--no-token").stdout.decode()
    finally:
        own.config.write_text(text)
    assert f"warn account is 111122223333 in the configuration, and all users belong to {ACCOUNT}" in found


def test_a_fault_of_the_program(own: Daemon) -> None:
    """Status 70: the kind of the fault and its places, and no text that may quote anything."""
    own.user("faulty")
    database = sqlite3.connect(own.data / "kmsd.sqlite")
    database.execute("UPDATE user SET created_at = 9223372036854775807 WHERE name = 'faulty'")
    database.commit()
    status, said = refused(own, "user", "list")
    database.execute("DELETE FROM user WHERE name = 'faulty'")
    database.commit()
    database.close()
    assert status == 70
    assert said.startswith("kmsd: internal error: OverflowError; report it with these places:\n")
    assert "kmsd/adapters/sql/" in said


def test_no_room_for_the_secret(own: Daemon, tmp_path: Path) -> None:
    """The disk is full: told before an access key is made, and nothing is left of the file."""
    before = own.cli("access-key", "list", "admin").stdout
    with small_disk(tmp_path, 65536) as disk:
        (disk / "filler").write_bytes(bytes(65536))
        status, said = refused(own, "access-key", "create", "admin", "--output", str(disk / "admin.env"))
        assert (status, "No space left on device" in said) == (75, True)
        assert [path.name for path in disk.iterdir()] == ["filler"]
    assert own.cli("access-key", "list", "admin").stdout == before


def test_init_is_careful(own: Daemon, tmp_path: Path) -> None:
    """A second administrator, and a second kmsd in one token, only on the operator's word; again: nothing to do."""
    again = own.cli("init")
    assert (again.stdout, b"nothing to do" in again.stderr) == (b"", True)
    status, said = refused(own, "init", "--administrator", "other")
    assert (status, "there is an administrator already: admin" in said) == (73, True)
    assert b"user/other" not in own.cli("user", "list").stdout
    other = own.cli("init", "--administrator", "other", "--another-administrator", "--format", "json")
    assert credentials_of(other.stdout).arn.endswith(":user/other")

    elsewhere = tmp_path / "data"
    text = own.config.read_text()
    own.config.write_text(text.replace(str(own.data), str(elsewhere)))
    try:
        status, said = refused(own, "init")
        assert status == 73
        assert f"and there is no database at {elsewhere / 'kmsd.sqlite'}. Is its disk mounted" in said
        assert not (elsewhere / "kmsd.sqlite").exists()
        assert own.cli("init", "--beside", "--format", "json").stdout
    finally:
        own.config.write_text(text)


def test_what_clients_are_told(own: Daemon) -> None:
    """`public_url` in an env file; without it an address that no client can use makes none, and no access key."""
    text = own.config.read_text()
    every = text.replace(f"127.0.0.1:{own.port}", f"0.0.0.0:{own.port}")
    keys = own.cli("access-key", "list", "admin").stdout
    try:
        own.config.write_text(every)
        status, said = refused(own, "access-key", "create", "admin", "--format", "env")
        assert (status, "set public_url in kmsd.toml" in said) == (78, True)
        assert own.cli("access-key", "list", "admin").stdout == keys
        own.config.write_text(f'public_url = "https://kms.example.com:8443/"\n{every}')
        made = own.cli("access-key", "create", "admin", "--format", "env").stdout.decode()
        assert "export AWS_ENDPOINT_URL=https://kms.example.com:8443\n" in made
        own.config.write_text(f'public_url = "kms.example.com"\n{every}')
        status, said = refused(own, "user", "list")
        assert (status, "public_url must look like https://kms.example.com:8443" in said) == (78, True)
    finally:
        own.config.write_text(text)
    local = own.cli("access-key", "create", "admin", "--format", "env").stdout.decode()
    assert f"export AWS_ENDPOINT_URL=http://127.0.0.1:{own.port}\n" in local


def test_help_is_a_line_for_each_command(own: Daemon) -> None:
    """And `--config` may stand before or behind the command."""
    lines = own.cli("--help").stdout.decode().splitlines()
    for command in ("init", "serve", "check", "user", "access-key", "role", "key", "explain", "jobs", "audit"):
        (line,) = [one for one in lines if one.startswith(f"    {command} ")]
        assert len(line.split()) > 2
    command = [sys.executable, "-m", "kmsd", "user", "list", "--config", str(own.config)]
    behind = subprocess.run(command, capture_output=True, check=True)
    assert b":user/admin\t" in behind.stdout
