"""Keys whose time comes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

from tests.support.harness import Harness
from tests.support.key_import import external_key, parameters, wrap


def import_until(harness: Harness, **delta: float) -> str:
    """A key with imported material that expires so much later."""
    kms = harness.client()
    key_id = external_key(kms)
    given = parameters(kms, key_id)
    kms.import_key_material(
        KeyId=key_id,
        ImportToken=given.answer["ImportToken"],
        EncryptedKeyMaterial=wrap(os.urandom(32), given.algorithm, given.public_key),
        ExpirationModel="KEY_MATERIAL_EXPIRES",
        ValidTo=harness.clock.now() + timedelta(**delta),
    )
    return key_id


def doomed_key(harness: Harness) -> tuple[str, bytes]:
    """A key that is to be deleted in seven days, and a blob of it."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"kept")["CiphertextBlob"]
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    return key_id, blob


@contextmanager
def clock_of_other_node(harness: Harness, **behind: float) -> Iterator[None]:
    """Store, for the block, what another node would whose clock is so much behind the trusted one of this node."""
    with closing(sqlite3.connect(harness.config.database, isolation_level=None)) as database:
        database.execute(
            "INSERT INTO clock_reading (node_id, trusted_at, boot, uptime_micros, taken_on_micros, stored_at) "
            "SELECT 'other', trusted_at - ?, '', 0, 0, stored_at FROM clock_reading",
            [round(timedelta(**behind).total_seconds() * 1e6)],
        )
        try:
            yield
        finally:
            database.execute("DELETE FROM clock_reading WHERE node_id = 'other'")
