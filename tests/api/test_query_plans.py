"""No statement of the daemon's work reads a whole table that grows with the keys: a million of them cost no more."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from tests.support.harness import Harness

TABLES = "key|token_object|material|wrapped_material|imported_material|grant_|alias|key_tag|key_usage"
WHOLE = re.compile(rf"SCAN ({TABLES})\b(?! USING (COVERING )?INDEX token_object_)")
"""The indexes of token_object named so are partial: of objects in the token, and of rows that need something done."""
STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b")


@pytest.fixture(name="statements")
def _statements(harness: Harness) -> Iterator[set[str]]:
    """All statements that the daemon runs, with their values."""
    store, found = harness.components.store, set[str]()
    connections: list[sqlite3.Connection] = [store._reading, store._writing]  # type: ignore[attr-defined]
    for connection in connections:
        connection.set_trace_callback(found.add)
    yield found
    for connection in connections:
        connection.set_trace_callback(None)


def whole_reads(harness: Harness, statements: set[str]) -> list[tuple[str, str]]:
    """The statements for which SQLite reads a whole table, and its plan's line about that."""
    with sqlite3.connect(harness.config.database) as database:
        plans = [
            (statement, str(line[3]))
            for statement in statements
            if STATEMENT.match(statement)
            for line in database.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    database.close()
    return [(statement, line) for statement, line in plans if WHOLE.search(line)]


def use(harness: Harness) -> None:
    """A key's life, with everything that can be attached to it, and all jobs."""
    kms = harness.client()
    key_id = kms.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/plan", TargetKeyId=key_id)
    grant = kms.create_grant(
        KeyId=key_id, GranteePrincipal=f"arn:aws:iam::{harness.config.account}:root", Operations=["Encrypt"]
    )
    blob = kms.encrypt(KeyId="alias/plan", Plaintext=b"text")["CiphertextBlob"]
    kms.decrypt(CiphertextBlob=blob)
    kms.list_keys()
    kms.list_aliases(KeyId=key_id)
    kms.list_grants(KeyId=key_id)
    kms.list_resource_tags(KeyId=key_id)
    kms.get_key_last_usage(KeyId=key_id)
    kms.revoke_grant(KeyId=key_id, GrantId=grant["GrantId"])
    kms.enable_key_rotation(KeyId=key_id)
    kms.rotate_key_on_demand(KeyId=key_id)
    harness.tick()
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=8)
    harness.tick()


def test_no_table_is_read_whole(harness: Harness, statements: set[str]) -> None:
    """Neither by calls nor by jobs; a statement that does is found."""
    use(harness)
    assert len(statements) > 50
    assert whole_reads(harness, statements) == []
    assert whole_reads(harness, {"SELECT key_id FROM key WHERE description = 'x'"}) != []
