"""Texts that the daemon's own key for logs has sealed in the database: data keys of frames, and texts of queries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings

Reseal = Callable[[str, bytes], Awaitable[bytes]]
"""Takes the subject of a sealed text, and the text; returns the content, sealed again."""
BATCH = 2000
_SECONDS = 600.0
"""Deadline of a statement: one that replaces data keys reads all frames."""
_DATA_KEYS = """
    SELECT DISTINCT data_key_id, context_arn, wrapped_key FROM log_frame
    WHERE kms_key = '' AND substring(wrapped_key FROM 1 FOR 1) = $1 LIMIT $2"""
_REPLACE_DATA_KEYS = """
    UPDATE log_frame SET wrapped_key = made.wrapped_key
    FROM unnest($1::bytea[], $2::bytea[]) AS made (data_key_id, wrapped_key)
    WHERE log_frame.data_key_id = made.data_key_id AND kms_key = ''"""
_QUERIES = (
    "SELECT query_id, query_id, sealed_text FROM log_query WHERE substring(sealed_text FROM 1 FOR 1) = $1 LIMIT $2"
)
_REPLACE_QUERIES = """
    UPDATE log_query SET sealed_text = made.sealed_text
    FROM unnest($1::text[], $2::bytea[]) AS made (query_id, sealed_text) WHERE log_query.query_id = made.query_id"""


async def reseal(settings: PostgresSettings, version: bytes, data_key: Reseal, query: Reseal) -> int:
    """Replace all that begins with the byte `version`, in batches. Return the number of texts. Can be repeated.

    Raises `StoreUnavailable`, and what the two functions raise.
    """
    async with schema.connected(settings, _SECONDS) as session:
        count = await _each(session, _DATA_KEYS, _REPLACE_DATA_KEYS, version, data_key)
        return count + await _each(session, _QUERIES, _REPLACE_QUERIES, version, query)


async def _each(session: Session, select: str, replace: str, version: bytes, again: Reseal) -> int:
    count = 0
    while rows := await session.fetch(select, version, BATCH):
        made = [await again(subject, sealed) for _, subject, sealed in rows]
        await session.execute_confirmed(replace, [row[0] for row in rows], made)
        count += len(rows)
    return count
