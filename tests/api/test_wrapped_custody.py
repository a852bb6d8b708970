"""Wrapped custody, where clients and operators see a difference: no objects, no domain key, kinds that stay objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from kmsd.adapters.sqlite import statistics
from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.key_import import add_material, external_key, imported_key, parameters, refusals_at_once
from tests.support.material_ids import held_ids, wrapped_ids
from tests.support.wrapped_rows import Rows

ED25519 = {"KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY"}

OTHER_KINDS = (
    *(("RSA_2048", "SIGN_VERIFY"), ("ECC_NIST_P256", "KEY_AGREEMENT")),
    ("HMAC_512", "GENERATE_VERIFY_MAC"),
)


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody="wrapped") as found, refusals_at_once():
        yield found


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


def objects(harness: Harness) -> set[bytes]:
    """The objects in the token."""
    return held_ids(harness) - wrapped_ids(harness.config)


def counted(harness: Harness) -> dict[str, int]:
    """`kmsd_token_objects`."""
    return dict(statistics.read(harness.config.database, datetime.now(UTC)).objects)


def test_keys_are_no_objects(harness: Harness, kms: Any) -> None:
    """CreateKey, rotation and imports add nothing to the token, nor to the metric; deletion takes nothing from it."""
    harness.tick()
    external = external_key(kms)
    given = parameters(kms, external)
    before, shown, wrapped = objects(harness), counted(harness), len(wrapped_ids(harness.config))
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(10)]
    for spec, usage in (
        ("RSA_2048", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "KEY_AGREEMENT"),
        ("HMAC_512", "GENERATE_VERIFY_MAC"),
    ):
        keys.append(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])
    for key_id in keys[:5]:
        kms.rotate_key_on_demand(KeyId=key_id)
    kms.import_key_material(**given.members(os.urandom(32)))
    assert len(wrapped_ids(harness.config)) == wrapped + len(keys) + 5 + 1
    assert (objects(harness), counted(harness)) == (before, shown)
    kms.delete_imported_key_material(KeyId=external)
    for key_id in keys:
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=7, seconds=1)
    harness.tick()
    assert len(wrapped_ids(harness.config)) == wrapped
    assert objects(harness) <= before


def test_what_cannot_be_wrapped_is_an_object(harness: Harness, kms: Any) -> None:
    """SoftHSM does not wrap Ed25519 keys: their pair is an object, and is used, found again and destroyed as one."""
    before = objects(harness)
    key_id = kms.create_key(**ED25519)["KeyMetadata"]["KeyId"]
    assert len(objects(harness) - before) == 1
    signed = {"KeyId": key_id, "Message": b"x", "SigningAlgorithm": "ED25519_SHA_512"}
    signature = kms.sign(**signed)["Signature"]
    harness.restart()
    harness.tick()
    kms = harness.client()
    assert kms.verify(**signed, Signature=signature)["SignatureValid"]
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=7, seconds=1)
    harness.tick()
    assert objects(harness) == before


def test_without_a_current_domain_key(harness: Harness, kms: Any) -> None:
    """New key material is refused with the documented error and a message; what there is works on."""
    key_id, external = kms.create_key()["KeyMetadata"]["KeyId"], external_key(kms)
    own = imported_key(kms, b"k" * 32)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    given, rows = parameters(kms, external), Rows(harness.config.database)
    keys = len(kms.list_keys(Limit=1000)["Keys"])
    (current,) = rows.select("SELECT domain_key_id FROM domain_key WHERE state = 'current'")
    change = "UPDATE domain_key SET state = :state WHERE domain_key_id = :id"
    rows.change(change, state="retiring", id=current["domain_key_id"])
    try:
        with pytest.raises(kms.exceptions.UnsupportedOperationException, match="kmsd domain-key create"):
            kms.create_key()
        unsupported = "UnsupportedOperationException"
        assert code_of(kms.create_key, **ED25519) == unsupported
        assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == unsupported
        assert code_of(kms.import_key_material, **given.members(os.urandom(32))) == unsupported
        assert code_of(add_material, kms, own, os.urandom(32)) == unsupported
        assert len(kms.list_keys(Limit=1000)["Keys"]) == keys
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
        assert kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec="ECC_NIST_P256")["PublicKey"]
    finally:
        rows.change(change, state="current", id=current["domain_key_id"])
    kms.import_key_material(**given.members(os.urandom(32)))
    kms.create_key()
