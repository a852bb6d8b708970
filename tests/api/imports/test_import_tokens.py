"""Import tokens and their wrapping keys: bound, bounded in time and in failures, and gone afterwards."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import force_setattr

from kmsd.domain.key_import import WrappingAlgorithm
from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import (
    current_material_id,
    external_key,
    parameters,
    state_of,
)
from tests.support.material_ids import held_ids


def test_import_tokens_are_bound(harness: Harness, kms: Any) -> None:
    """To the key; every changed byte is noticed; they do not stand for one another."""
    mine, other, material = external_key(kms), external_key(kms), os.urandom(32)
    given = parameters(kms, mine)
    members = given.members(material)
    assert code_of(kms.import_key_material, **{**members, "KeyId": other}) == "InvalidImportTokenException"
    token = members["ImportToken"]
    for position in range(len(token)):
        changed = token[:position] + bytes([token[position] ^ 1]) + token[position + 1 :]
        told = code_of(kms.import_key_material, **{**members, "ImportToken": changed})
        assert told == "InvalidImportTokenException", position
    for nonsense in (b"x", os.urandom(len(token)), token[:-1], token + b"\0"):
        told = code_of(kms.import_key_material, **{**members, "ImportToken": nonsense})
        assert told == "InvalidImportTokenException"
    # The token of another pair: the blob does not open.
    second = parameters(kms, mine)
    crossed = {**members, "ImportToken": second.answer["ImportToken"]}
    assert code_of(kms.import_key_material, **crossed) == "InvalidCiphertextException"
    # The token of another algorithm, for the same key: neither.
    by_pkcs1 = parameters(kms, mine, "RSAES_PKCS1_V1_5")
    told = code_of(
        kms.import_key_material, **by_pkcs1.members_of(parameters(kms, mine).members(material)["EncryptedKeyMaterial"])
    )
    assert told == "InvalidCiphertextException"
    assert state_of(kms, mine) == state_of(kms, other) == "PendingImport"
    kms.import_key_material(**members)


def test_import_tokens_expire_on_the_instant_and_their_keys_go(harness: Harness, kms: Any) -> None:
    """24 hours, by the clock alone; then the job destroys the wrapping keys, in both tokens."""
    material, key_id = os.urandom(32), external_key(kms)
    before = held_ids(harness)
    given = [parameters(kms, key_id, algorithm) for algorithm in ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256")]
    wrapping = held_ids(harness) - before
    assert len(wrapping) >= 2
    harness.clock.advance(hours=23, minutes=59)
    kms.import_key_material(**given[0].members(material))
    harness.clock.advance(minutes=1)
    for each in given:
        assert code_of(kms.import_key_material, **each.members(material)) == "ExpiredImportTokenException"
    harness.tick()
    assert not wrapping & held_ids(harness)
    assert code_of(kms.import_key_material, **given[0].members(material)) == "ExpiredImportTokenException"
    # A clock that is set back revives nothing.
    harness.clock.advance(hours=-2)
    assert code_of(kms.import_key_material, **given[0].members(material)) == "InvalidImportTokenException"
    harness.clock.advance(hours=2)


@pytest.mark.parametrize("algorithm", ["RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_256"])
def test_twenty_failures_end_an_import_token(harness: Harness, kms: Any, algorithm: str) -> None:
    """And with it its wrapping key, in the token; others of the key go on."""
    material, key_id = os.urandom(32), external_key(kms)
    spare = parameters(kms, key_id, algorithm)
    before = held_ids(harness)
    given = parameters(kms, key_id, algorithm)
    wrapping = held_ids(harness) - before
    for _ in range(19):
        garbage = given.members_of(b"\0" + os.urandom(255))
        assert code_of(kms.import_key_material, **garbage) == "InvalidCiphertextException"
    kms.import_key_material(**given.members(material))
    kms.delete_imported_key_material(KeyId=key_id)
    assert code_of(kms.import_key_material, **garbage) == "InvalidCiphertextException"
    assert code_of(kms.import_key_material, **given.members(material)) == "InvalidImportTokenException"
    assert wrapping == set() or not wrapping & held_ids(harness)
    kms.import_key_material(**spare.members(material))


def test_failures_at_the_same_time_are_not_told_beyond_the_twentieth(harness: Harness, kms: Any) -> None:
    """Whatever runs at once: at most 20 answers say what happened to a blob."""
    key_id = external_key(kms)
    given = parameters(kms, key_id)

    def garbage(_: int) -> str:
        return code_of(kms.import_key_material, **given.members_of(b"\0" + os.urandom(255)))

    with ThreadPoolExecutor(8) as threads:
        told = Counter(threads.map(garbage, range(40)))
    assert told == {"InvalidCiphertextException": 20, "InvalidImportTokenException": 20}
    assert code_of(kms.import_key_material, **given.members(b"k" * 32)) == "InvalidImportTokenException"


def test_a_wrapping_key_that_the_token_lost(harness: Harness, kms: Any) -> None:
    """The import token is no longer of use; that is no failed import of the client's."""
    key_id = external_key(kms)
    before = held_ids(harness)
    given = parameters(kms, key_id)
    for object_id in held_ids(harness) - before or {key.object_id for key in harness.run(_given(harness, key_id))}:
        harness.run(harness.components.token.destroy(object_id))
    assert code_of(kms.import_key_material, **given.members(b"k" * 32)) == "InvalidImportTokenException"
    harness.clock.advance(hours=24)
    harness.tick()


async def _given(harness: Harness, key_id: str) -> Any:
    return [key for key in await (await harness.components.store.read()).wrapping_keys() if key.key_id == key_id]


def test_first_imports_at_the_same_time(harness: Harness, kms: Any) -> None:
    """One material becomes the key's; the others are refused so that they can be tried again, and leave nothing."""
    key_id = external_key(kms)
    materials = [os.urandom(32) for _ in range(6)]
    requests = [parameters(kms, key_id).members(material) for material in materials]
    before = held_ids(harness)
    with ThreadPoolExecutor(6) as threads:
        told = list(threads.map(lambda members: code_of(kms.import_key_material, **members), requests))
    assert told.count("") == 1
    assert set(told) <= {"", "KMSInternalException", "IncorrectKeyMaterialException"}
    assert held_ids(harness) - before == {current_material_id(harness, key_id)}
    for answer, members in zip(told, requests, strict=True):
        again = code_of(kms.import_key_material, **members)
        assert again == ("IncorrectKeyMaterialException" if answer else "")


def test_algorithms_that_are_refused_or_lacking(harness: Harness, kms: Any) -> None:
    """By name, when parameters are fetched and when they are used."""
    components, key_id = harness.components, external_key(kms)
    by_pkcs1 = parameters(kms, key_id, "RSAES_PKCS1_V1_5").members(b"k" * 32)
    through_nss = parameters(kms, key_id, "RSAES_OAEP_SHA_256").members(b"k" * 32)
    bent = (
        (components.pipeline.dependencies, "refused_wrapping", frozenset({WrappingAlgorithm.RSAES_PKCS1_V1_5})),
        (components.tokens, "others", {}),
    )
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in bent]
    try:
        for holder, name, value in bent:
            force_setattr(holder, name, value)
        for algorithm, members in (("RSAES_PKCS1_V1_5", by_pkcs1), ("RSAES_OAEP_SHA_256", through_nss)):
            want = {"WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048"}
            assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == "UnsupportedOperationException"
            assert code_of(kms.import_key_material, **members) == "UnsupportedOperationException"
    finally:
        for holder, name, value in kept:
            force_setattr(holder, name, value)
    kms.import_key_material(**through_nss)


def test_wrapping_keys_are_kept_in_stock(harness: Harness, kms: Any) -> None:
    """Of a kind that is in demand, until it no longer is."""
    harness.clock.advance(hours=25)
    harness.tick()
    resting = held_ids(harness)
    key_id = external_key(kms)
    parameters(kms, key_id, "RSAES_OAEP_SHA_256", "RSA_2048")
    harness.tick()
    stocked = held_ids(harness) - resting
    assert len(stocked) == 3
    for _ in range(2):
        given = parameters(kms, key_id, "RSAES_OAEP_SHA_256", "RSA_2048")
        kms.import_key_material(**given.members(b"k" * 32))
    assert len(held_ids(harness) - resting) == 4  # with the material
    harness.clock.advance(hours=25)
    harness.tick()
    assert held_ids(harness) - resting == {current_material_id(harness, key_id)}
