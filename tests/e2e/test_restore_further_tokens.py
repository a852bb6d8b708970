"""What `kmsd restore` says of the further tokens whose keys are in the backup."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pkcs11 import Attribute, Mechanism

from kmsd.domain.material import Algorithm
from kmsd.exit_codes import EXIT_PIN_REFUSED
from tests.support.daemon import Daemon, further_section, provisioned
from tests.support.key_ceremonies import act
from tests.support.token_domain_keys import as_user
from tests.support.tokens import another_softhsm

MESSAGE = {"Message": b"message", "MacAlgorithm": "HMAC_SHA_256"}
STRANGER = b"s" * 16


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose HMAC keys are in the token `second`, not running."""
    with provisioned(tmp_path, custody="object") as found:
        section = further_section(tmp_path, another_softhsm(found.place, "second"), "second", ["HMAC_256"])
        found.config.write_text(f"{found.config.read_text()}\n{section}")
        yield found


def hmac_key(daemon: Daemon) -> str:
    """A new key in the further token."""
    created = daemon.client().create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    return str(created["KeyMetadata"]["KeyId"])


def state(daemon: Daemon, key_id: str) -> str:
    """The state of a key."""
    return str(daemon.client().describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"])


def query(daemon: Daemon, statement: str, *values: object) -> Any:
    """The first value that the database has."""
    with closing(sqlite3.connect(daemon.data / "kmsd.sqlite")) as database, database:
        return database.execute(statement, values).fetchone()[0]


def replace_object(daemon: Daemon, object_id: bytes, by: bytes) -> None:
    """Destroy an object of the further token behind the daemon's back, and create another one."""

    async def replaced() -> None:
        async with replace(daemon.place, label="second").open() as token:
            await token.destroy(object_id)
            await token.generate_key(by, Algorithm.AES_256_GCM)

    asyncio.run(replaced())


def delete_token(label: str) -> None:
    """Delete a token with all its objects."""
    subprocess.run(["softhsm2-util", "--delete-token", "--token", label], check=True, capture_output=True)


def back_up(daemon: Daemon) -> str:
    """Make a backup, stop, and lose the data directory. Return the backup's path."""
    file = daemon.folder / "kmsd.backup"
    daemon.cli("backup", str(file))
    daemon.stop()
    shutil.rmtree(daemon.data)
    return str(file)


def restore(daemon: Daemon, file: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Restore; that no trail is left is accepted."""
    command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "restore", file, "--accept-rollback"]
    return subprocess.run([*command, *options], capture_output=True, check=False, timeout=120, text=True)


def refused(daemon: Daemon, file: str, *options: str) -> str:
    """What a restore prints that wants --accept-missing, and changes nothing."""
    done = restore(daemon, file, *options)
    assert done.returncode == 65, done.stdout
    assert "--accept-missing" in done.stderr
    assert not (daemon.data / "kmsd.sqlite").exists()
    return done.stdout


def test_what_a_further_token_lacks(daemon: Daemon) -> None:
    """It is said, wants an acceptance, and makes those keys Unavailable and no other."""
    daemon.start()
    kept, lost = hmac_key(daemon), hmac_key(daemon)
    main = daemon.client().create_key()["KeyMetadata"]["KeyId"]
    mac = daemon.client().generate_mac(KeyId=kept, **MESSAGE)["Mac"]
    object_id = query(daemon, "SELECT object_id FROM token_object WHERE owner = ?", f"key:{lost}")
    file = back_up(daemon)
    whole = restore(daemon, file, "--check")
    assert whole.returncode == 0, whole.stderr
    assert "ok   the token second is the one of this backup" in whole.stdout
    assert "MISS" not in whole.stdout
    replace_object(daemon, object_id, STRANGER)
    output = refused(daemon, file)
    assert f"MISS key:{lost} {object_id.hex()} is not in the token second\n" in output
    assert output.count("MISS") == 1
    assert f"secret {STRANGER.hex()} in the token second is not in the database" in output
    done = restore(daemon, file, "--accept-missing")
    assert done.returncode == 0, done.stderr
    daemon.start()
    states = {key: state(daemon, key) for key in (kept, lost, main)}
    assert states == {kept: "Enabled", lost: "Unavailable", main: "Enabled"}
    assert daemon.client().verify_mac(KeyId=kept, **MESSAGE, Mac=mac)["MacValid"]


def test_a_token_that_is_not_configured_any_more(daemon: Daemon) -> None:
    """It is named with what depends on it. Nothing of it is marked: its keys work when it is configured again."""
    daemon.start()
    keys = [hmac_key(daemon) for _ in range(2)]
    mac = daemon.client().generate_mac(KeyId=keys[0], **MESSAGE)["Mac"]
    file = back_up(daemon)
    configuration = daemon.config.read_text()
    daemon.config.write_text(configuration.partition("[[tokens]]")[0])
    output = refused(daemon, file)
    assert "MISS the token second was not compared: kmsd.toml does not name it any more" in output
    assert "2 objects, 0 domain keys; 2 keys depend on it" in output
    assert "note the token second was not compared" not in output
    checked = restore(daemon, file, "--check")
    assert "its 2 keys cannot be used until it is back" in checked.stdout
    done = restore(daemon, file, "--accept-missing")
    assert done.returncode == 0, done.stderr
    (elements,) = (
        record["responseElements"]
        for record in daemon.audit_records()
        if record["eventName"] == "RestoreBackup" and record["responseElements"]
    )
    assert (elements["absentTokens"], elements["missing"]) == (["second"], 0)
    daemon.start()
    with pytest.raises(ClientError, match="KeyUnavailableException"):
        daemon.client().verify_mac(KeyId=keys[0], **MESSAGE, Mac=mac)
    daemon.stop()
    daemon.config.write_text(configuration)
    daemon.start()
    assert daemon.client().verify_mac(KeyId=keys[0], **MESSAGE, Mac=mac)["MacValid"]


def test_another_token_of_the_same_name(daemon: Daemon) -> None:
    """A token without the sentinel is not the one of the database, whatever its label is."""
    daemon.start()
    hmac_key(daemon)
    file = back_up(daemon)
    delete_token("second")
    another_softhsm(daemon.place, "second")
    output = refused(daemon, file)
    assert "MISS the token second was not compared: the token is there, but the sentinel object is not in it" in output
    assert "1 objects, 0 domain keys; 1 keys depend on it" in output


def test_a_token_that_nothing_depends_on(daemon: Daemon) -> None:
    """Its absence is said and needs no acceptance."""
    daemon.start()
    file = back_up(daemon)
    delete_token("second")
    done = restore(daemon, file)
    assert done.returncode == 0, done.stderr
    assert "note the token second was not compared" in done.stdout


def test_with_the_main_token_from_the_backup(daemon: Daemon) -> None:
    """The further token is compared where it is; the backup holds the files of the main one alone."""
    daemon.start()
    key_id = hmac_key(daemon)
    mac = daemon.client().generate_mac(KeyId=key_id, **MESSAGE)["Mac"]
    file = back_up(daemon)
    delete_token("kmsd-test")
    done = restore(daemon, file, "--with-token")
    assert done.returncode == 0, done.stderr
    assert "ok   the token second is the one of this backup" in done.stdout
    daemon.start()
    assert daemon.client().verify_mac(KeyId=key_id, **MESSAGE, Mac=mac)["MacValid"]


def test_an_object_that_the_daemon_did_not_make_so(daemon: Daemon) -> None:
    """It has the id of a key and lacks what protects a key: that is said."""
    daemon.start()
    object_id = query(daemon, "SELECT object_id FROM token_object WHERE owner = ?", f"key:{hmac_key(daemon)}")
    file = back_up(daemon)
    with as_user(replace(daemon.place, label="second")) as token:
        token.raw.destroy(token.session, token.find(object_id))
        bare = {Attribute.ID: object_id, Attribute.LABEL: b"kmsd", Attribute.TOKEN: True, Attribute.VALUE_LEN: 32}
        unprotected = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        token.raw.generate(token.session, int(Mechanism.AES_KEY_GEN), {**bare, **unprotected})
    checked = restore(daemon, file, "--check")
    assert checked.returncode == 0, checked.stderr
    assert f"FAIL secret {object_id.hex()} in the token second: " in checked.stdout


def test_a_token_without_a_sentinel(daemon: Daemon) -> None:
    """The objects of the database are the evidence: one suffices, and a token without any is not compared."""
    daemon.start()
    keys = [hmac_key(daemon) for _ in range(2)]
    daemon.stop()
    # As of a token that has no AES.
    sentinel = query(daemon, "DELETE FROM service_key WHERE purpose = 'sentinel:second' RETURNING object_id")
    query(daemon, "DELETE FROM token_object WHERE object_id = ? RETURNING 1", sentinel)
    first, other = (query(daemon, "SELECT object_id FROM token_object WHERE owner = ?", f"key:{key}") for key in keys)
    # Whoever opens the token makes a new sentinel.
    configuration = daemon.config.read_text()
    daemon.config.write_text(configuration.partition("[[tokens]]")[0])
    file = back_up(daemon)
    daemon.config.write_text(configuration)
    replace_object(daemon, first, STRANGER)
    assert refused(daemon, file).count("MISS") == 1
    replace_object(daemon, other, b"t" * 16)
    output = refused(daemon, file)
    assert "MISS the token second was not compared: it holds nothing of this database" in output
    assert "2 objects, 0 domain keys; 2 keys depend on it" in output


def test_a_refused_pin(daemon: Daemon) -> None:
    """It ends the restore, and is not offered again; no option accepts that."""
    daemon.start()
    hmac_key(daemon)
    file = back_up(daemon)
    pin = daemon.folder / "second-pin"
    right = pin.read_bytes()
    pin.write_bytes(b"wrong-pin-1234")
    for _ in range(2):
        assert restore(daemon, file, "--accept-missing").returncode == EXIT_PIN_REFUSED
    assert not (daemon.data / "kmsd.sqlite").exists()
    pin.write_bytes(right)
    assert restore(daemon, file).returncode == 0


@pytest.fixture(name="wrapping")
def _wrapping(daemon: Daemon) -> Daemon:
    """The same, with key material that is wrapped under a domain key of the further token."""
    daemon.config.write_text(f'{daemon.config.read_text()}custody = "wrapped"\n')
    act(daemon, "create", "--token", "second", "--count", "2")
    return daemon


def test_a_domain_key_that_a_further_token_lacks(wrapping: Daemon) -> None:
    """It is said, with the number of keys under it, which become Unavailable."""
    daemon = wrapping
    daemon.start()
    key_id = hmac_key(daemon)
    domain_key_id = query(daemon, "SELECT domain_key_id FROM domain_key WHERE state = 'current'")
    file = back_up(daemon)
    with as_user(replace(daemon.place, label="second")) as token:
        token.raw.destroy(token.session, token.find(domain_key_id))
    output = refused(daemon, file)
    lost = f"domain key {domain_key_id.hex()} is not in the token second: 1 key materials cannot be opened"
    assert f"MISS {lost}" in output
    assert output.count("MISS") == 1
    done = restore(daemon, file, "--accept-missing")
    assert done.returncode == 0, done.stderr
    daemon.start()
    assert state(daemon, key_id) == "Unavailable"


def test_a_further_token_with_wrapped_keys_is_away(wrapping: Daemon) -> None:
    """The keys under its domain keys count as depending on it."""
    daemon = wrapping
    daemon.start()
    for _ in range(3):
        hmac_key(daemon)
    file = back_up(daemon)
    delete_token("second")
    assert "0 objects, 2 domain keys; 3 keys depend on it" in refused(daemon, file)


def test_a_domain_key_that_is_not_proven(wrapping: Daemon) -> None:
    """The database says something of a domain key that does not open with it: no option accepts that."""
    daemon = wrapping
    query(
        daemon,
        "UPDATE domain_key SET binding_key = (SELECT binding_key FROM domain_key AS other WHERE "
        "other.domain_key_id != domain_key.domain_key_id) RETURNING 1",
    )
    file = back_up(daemon)
    done = restore(daemon, file, "--accept-missing")
    assert done.returncode == 65
    assert "the token 'second': its domain key" in done.stderr
    assert "is not that of this database" in done.stderr
    assert not (daemon.data / "kmsd.sqlite").exists()
