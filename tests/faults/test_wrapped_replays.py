"""Rows of wrapped material that was deleted come back, from an old copy of the database: they are not used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.key_import import external_key, import_again, refusals_at_once
from tests.support.material_ids import wrapped_ids
from tests.support.wrapped_rows import Rows


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody="wrapped") as found, refusals_at_once():
        yield found


@pytest.fixture(name="rows")
def _rows(harness: Harness) -> Rows:
    return Rows(harness.config.database)


@pytest.mark.parametrize("how", ["the key is deleted", "its material is deleted", "its material expires"])
def test_deleted_material_comes_back(harness: Harness, rows: Rows, how: str) -> None:
    """Neither a running daemon uses it nor one that is started with it; reconcile lets it be."""
    kms, material = harness.client(), os.urandom(32)
    if how == "the key is deleted":
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    else:
        key_id, expiry = external_key(kms), {}
        if how == "its material expires":
            ends = harness.clock.now() + timedelta(hours=1)
            expiry = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": ends}
        import_again(kms, key_id, material, **expiry)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    copy, before = rows.copy_of(key_id), wrapped_ids(harness.config)
    delete(harness, key_id, how)
    (gone,) = before - wrapped_ids(harness.config)
    after = rows.copy_of(key_id)
    for row in copy["key"]:
        row["valid_to"] = None
    rows.replay(copy)
    try:
        assert gone in wrapped_ids(harness.config)
        for restarts in (False, True):
            if restarts:
                harness.restart()
                harness.tick()
            kms = harness.client()
            assert code_of(kms.decrypt, CiphertextBlob=blob) not in ("", "NotFoundException")
            assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "KeyUnavailableException"
            assert code_of(kms.generate_data_key, KeyId=key_id, KeySpec="AES_256") == "KeyUnavailableException"
    finally:
        rows.remove(copy)
        rows.replay(after)
    harness.restart()
    assert code_of(harness.client().decrypt, CiphertextBlob=blob) != ""


def delete(harness: Harness, key_id: str, how: str) -> None:
    """Let the material end."""
    if how == "its material is deleted":
        harness.client().delete_imported_key_material(KeyId=key_id)
        return
    if how == "the key is deleted":
        harness.client().schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=8)
    harness.tick()


def test_a_single_row_comes_back(harness: Harness, rows: Rows) -> None:
    """Without the rows that go with it, it belongs to no key; material of that id can be imported again."""
    kms, material = harness.client(), os.urandom(32)
    key_id = external_key(kms)
    import_again(kms, key_id, material)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    copy = rows.copy_of(key_id)
    kms.delete_imported_key_material(KeyId=key_id)
    rows.replay({"wrapped_material": copy["wrapped_material"]})
    harness.restart()
    kms = harness.client()
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "KMSInvalidStateException"
    rows.remove({"wrapped_material": copy["wrapped_material"]})
    import_again(kms, key_id, material)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"


def test_material_that_is_imported_again_is_used(harness: Harness, rows: Rows) -> None:
    """Its id is no longer one of deleted material; the row from before its deletion opens the same key."""
    kms, material = harness.client(), os.urandom(32)
    key_id = external_key(kms)
    import_again(kms, key_id, material)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    (old,) = rows.copy_of(key_id)["wrapped_material"]
    kms.delete_imported_key_material(KeyId=key_id)
    import_again(kms, key_id, material)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
    with rows.written(old):
        harness.restart()
        assert harness.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
