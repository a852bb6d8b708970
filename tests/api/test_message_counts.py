"""Messages under AES-GCM with random nonces are counted, and their number is bounded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator

import pytest

from kmsd.custody.message_counts import (
    AHEAD_MESSAGES,
    MAX_MESSAGES,
    RESERVED_MESSAGES,
    ROTATE_AT_MESSAGES,
    MessageCounts,
)
from tests.support.appended_iv import appending_harness
from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.harness import harness as open_harness
from tests.support.polling import until


@pytest.fixture(scope="module", name="harness", params=["without derivation", "with nonces of its own"])
def _harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, custody: str
) -> Iterator[Harness]:
    """A daemon whose token cannot derive keys, or makes its own 16-byte nonces: algorithms 2 and 3."""
    folder = tmp_path_factory.mktemp("harness")
    if request.param == "without derivation":
        with open_harness(folder, without=("CKM_AES_ECB_ENCRYPT_DATA",), custody=custody) as found:
            yield found
    else:
        with appending_harness(folder, custody=custody) as (found, _):
            yield found


def counted(harness: Harness, owner: str) -> list[int]:
    """Messages counted for the objects of a key, or for one of the daemon's own."""
    database = sqlite3.connect(harness.config.database)
    found = database.execute("SELECT messages FROM token_object WHERE owner = ? ORDER BY created_at", (owner,))
    numbers = [number for (number,) in found]
    database.close()
    return numbers


def set_count(harness: Harness, owner: str, number: int) -> None:
    """As after so many messages."""
    database = sqlite3.connect(harness.config.database)
    database.execute("UPDATE token_object SET messages = ? WHERE owner = ?", (number, owner))
    database.commit()
    database.close()


def new_key(harness: Harness) -> str:
    """A key that has encrypted one message."""
    key_id = str(harness.client().create_key()["KeyMetadata"]["KeyId"])
    harness.client().encrypt(KeyId=key_id, Plaintext=b"x")
    until(lambda: counted(harness, f"key:{key_id}") == [RESERVED_MESSAGES])
    return key_id


def test_messages_are_reserved_before_they_are_used_up(harness: Harness) -> None:
    """One write for many messages; what a process has reserved is lost with it, and never used twice."""
    key_id = new_key(harness)
    for _ in range(20):
        harness.client().encrypt(KeyId=key_id, Plaintext=b"x")
    assert counted(harness, f"key:{key_id}") == [RESERVED_MESSAGES]
    harness.restart()
    harness.client().encrypt(KeyId=key_id, Plaintext=b"x")
    until(lambda: counted(harness, f"key:{key_id}") == [2 * RESERVED_MESSAGES])


def test_a_key_is_rotated_at_half_the_bound(harness: Harness) -> None:
    """Whether or not its rotation is on; old blobs open, and new material is counted from the beginning."""
    key_id = new_key(harness)
    kms = harness.client()
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]
    set_count(harness, f"key:{key_id}", ROTATE_AT_MESSAGES - 1)
    harness.tick()
    assert len(counted(harness, f"key:{key_id}")) == 1
    set_count(harness, f"key:{key_id}", ROTATE_AT_MESSAGES)
    harness.tick()
    assert len(counted(harness, f"key:{key_id}")) == 2
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"old"
    harness.tick()
    assert len(counted(harness, f"key:{key_id}")) == 2
    assert [one["RotationType"] for one in kms.list_key_rotations(KeyId=key_id)["Rotations"]] == ["AUTOMATIC"]
    assert kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"] is False


def test_material_is_refused_at_the_bound(harness: Harness) -> None:
    """A process that comes to the bound encrypts no more with that material; it decrypts, and a rotation helps."""
    key_id = new_key(harness)
    blob = harness.client().encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    set_count(harness, f"key:{key_id}", MAX_MESSAGES)
    harness.restart()
    kms = harness.client()
    until(lambda: code_of(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x")) == "KeyUnavailableException")
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    kms.rotate_key_on_demand(KeyId=key_id)
    kms.encrypt(KeyId=key_id, Plaintext=b"x")


def test_no_more_than_allowed_goes_ahead_of_a_reservation(harness: Harness) -> None:
    """While the store does not answer, a bounded number of messages is encrypted, and then they wait."""
    key_id = new_key(harness)
    database = sqlite3.connect(harness.config.database)
    (object_id,) = database.execute("SELECT object_id FROM token_object WHERE owner = ?", (f"key:{key_id}",)).fetchone()
    database.close()

    async def take() -> int:
        counts, taken = MessageCounts(harness.components.store), 0
        async with harness.components.store.write():
            while True:
                waiting = asyncio.ensure_future(counts.reserve(object_id))
                await asyncio.sleep(0)
                if not waiting.done():
                    break
                await waiting
                taken += 1
        await waiting
        return taken

    assert harness.run(take()) == AHEAD_MESSAGES


def test_service_keys_are_counted_and_never_refused(harness: Harness) -> None:
    """Session tokens go on; `kmsd check` tells of the count."""
    set_count(harness, "service:sealing", MAX_MESSAGES)
    harness.restart()
    for _ in range(5):
        harness.client("sts").get_session_token()
    until(lambda: counted(harness, "service:sealing")[0] > MAX_MESSAGES)
    harness.client("sts").get_session_token()
