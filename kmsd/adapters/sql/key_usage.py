"""Queries and statements about the last use of keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.access import SqlAccess
from kmsd.domain.key_usage import KeyUse


class KeyUsageQueries(SqlAccess):
    """The part of the reader about the use of keys."""

    async def key_use(self, key_id: str) -> KeyUse | None:
        row = await self._one(
            "SELECT key_id, operation, used_at, event_id, request_id FROM key_usage WHERE key_id = ?", key_id
        )
        return None if row is None else KeyUse(row[0], row[1], row_mapping.instant(row[2]), row[3], row[4])

    async def usage_tracked_since(self) -> datetime:
        row = await self._one("SELECT since FROM key_usage_tracking")
        return row_mapping.instant((row and row[0]) or 0)


class KeyUsageStatements(KeyUsageQueries):
    """The part of the transaction about the use of keys."""

    async def put_key_uses(self, uses: Sequence[KeyUse]) -> None:
        for use in uses:
            await self._run(
                # Several processes copy their records; the later use counts. A deleted key has no use.
                "INSERT INTO key_usage (key_id, operation, used_at, event_id, request_id) "
                "SELECT key_id, ?2, ?3, ?4, ?5 FROM key WHERE key_id = ?1 "
                "ON CONFLICT (key_id) DO UPDATE SET operation = excluded.operation, used_at = excluded.used_at, "
                "event_id = excluded.event_id, request_id = excluded.request_id "
                "WHERE excluded.used_at >= key_usage.used_at",
                use.key_id,
                use.operation,
                row_mapping.micros(use.used_at),
                use.event_id,
                use.request_id,
            )
