"""A daemon changes over to wrapped custody, as an operator does it; and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, further_section, provisioned
from tests.support.key_ceremonies import act
from tests.support.key_import import external_key, parameters
from tests.support.tokens import another_softhsm

MATERIAL = bytes(range(32))


@pytest.fixture(name="objects")
def _objects(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that makes token objects, not running."""
    with provisioned(tmp_path, workers=2, custody="object") as found:
        yield found


def change_custody(daemon: Daemon, old: str, new: str) -> None:
    """Edit kmsd.toml, and restart."""
    text = daemon.config.read_text()
    assert f'custody = "{old}"' in text
    daemon.config.write_text(text.replace(f'custody = "{old}"', f'custody = "{new}"'))
    daemon.stop()
    daemon.start()


def custody_of(daemon: Daemon, key_id: str) -> str:
    """What `kmsd key show` says."""
    lines = daemon.cli("key", "show", key_id).stdout.decode().splitlines()
    return next(line.removeprefix("Custody: ") for line in lines if line.startswith("Custody: "))


def create(kms: Any, **members: str) -> str:
    """A new key."""
    return str(kms.create_key(**members)["KeyMetadata"]["KeyId"])


def moved(daemon: Daemon, *keys: str) -> dict[str, str]:
    """What `kmsd custody move` says of each key."""
    done = daemon.cli("custody", "move", *(keys or ("--all",)), check=False)
    found = dict(line.split("\t") for line in done.stdout.decode().splitlines())
    assert done.returncode == any("cannot" in text for text in found.values()), done
    return {arn.rpartition("/")[2]: text for arn, text in found.items()}


def test_to_wrapped_custody_and_back(objects: Daemon) -> None:
    """New keys are wrapped, old ones go on; those that can be rotated move, of the others the reason is said."""
    daemon = objects
    daemon.start()
    kms = daemon.client()
    symmetric = create(kms)
    pair = create(kms, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    imported = external_key(kms)
    kms.import_key_material(**parameters(kms, imported).members(MATERIAL))
    before = {key: kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"] for key in (symmetric, imported)}
    act(daemon, "create")
    change_custody(daemon, "object", "wrapped")
    kms = daemon.client()
    fresh = create(kms)
    edwards = create(kms, KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")
    kinds = {key: custody_of(daemon, key) for key in (symmetric, pair, imported, fresh, edwards)}
    assert kinds == {
        symmetric: "1 object",
        pair: "1 object",
        imported: "1 object",
        fresh: "1 wrapped",
        edwards: "1 object",
    }
    told = moved(daemon)
    assert "new key material is wrapped" in told[symmetric]
    assert "import it again" in told[imported]
    assert "never rotated" in told[pair]
    assert told[fresh] == "its key material is wrapped already"
    assert told[edwards] == "its key material is object already"
    assert custody_of(daemon, symmetric) == "1 object, 1 wrapped"
    kms.delete_imported_key_material(KeyId=imported)
    kms.import_key_material(**parameters(kms, imported).members(MATERIAL))
    assert custody_of(daemon, imported) == "1 wrapped"
    for key, blob in before.items():
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text", key
    wrapped = kms.encrypt(KeyId=symmetric, Plaintext=b"text")["CiphertextBlob"]
    checked = daemon.cli("check").stdout.decode()
    assert "it makes objects of ECC_NIST_EDWARDS25519 SIGN_VERIFY" in checked
    change_custody(daemon, "wrapped", "object")
    assert "new key material is object" in moved(daemon, symmetric)[symmetric]
    assert daemon.client().decrypt(CiphertextBlob=wrapped)["Plaintext"] == b"text"
    assert {"MoveKeyMaterial"} <= {record["eventName"] for record in daemon.audit_records()}


def test_without_a_domain_key(objects: Daemon) -> None:
    """Nothing is made in another custody than the one that is configured; keys that exist go on."""
    daemon = objects
    daemon.start()
    key_id = create(daemon.client())
    change_custody(daemon, "object", "wrapped")
    kms = daemon.client()
    with pytest.raises(kms.exceptions.UnsupportedOperationException, match="domain-key create"):
        kms.create_key()
    assert kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    assert "no current domain key" in daemon.cli("check", check=False).stdout.decode()
    assert "domain-key create" in moved(daemon, key_id)[key_id]


def test_a_further_token_wraps(objects: Daemon) -> None:
    """Custody is a setting of each token: the main one makes objects, and the other one wraps what it serves."""
    daemon = objects
    second = another_softhsm(daemon.place, "second")
    section = further_section(daemon.folder, second, "second", ["HMAC_256"])
    daemon.config.write_text(f'{daemon.config.read_text()}\n{section}custody = "wrapped"\n')
    act(daemon, "create", "--token", "second")
    daemon.start()
    kms = daemon.client()
    symmetric, mac_key = create(kms), create(kms, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    assert (custody_of(daemon, symmetric), custody_of(daemon, mac_key)) == ("1 object", "1 wrapped")
    wanted = {"KeyId": mac_key, "Message": b"message", "MacAlgorithm": "HMAC_SHA_256"}
    mac = kms.generate_mac(**wanted)["Mac"]
    daemon.stop()
    daemon.start()
    assert daemon.client().verify_mac(**wanted, Mac=mac)["MacValid"]
    assert "token second wraps new key material" in daemon.cli("check").stdout.decode()
