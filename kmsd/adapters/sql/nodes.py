"""Queries and statements about nodes, and the readings of their clocks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.access import SqlAccess
from kmsd.domain.trusted_time import ClockSample
from kmsd.ports import Node, NodeCheckpoint

CLOCK_READING = "SELECT trusted_at, boot, uptime_micros, taken_on_micros FROM clock_reading WHERE node_id = ?"

_CHECKPOINT = ", ".join(NodeCheckpoint.__struct_fields__)


class NodeQueries(SqlAccess):
    """The part of the reader about nodes."""

    async def nodes(self) -> Sequence[Node]:
        found = await self._all("SELECT node_id, name, joined_at, seen_at, version, hsm FROM node ORDER BY name")
        return [
            Node(row[0], row[1], row_mapping.instant(row[2]), row_mapping.instant(row[3]), row[4], row[5])
            for row in found
        ]

    async def holder_of(self, lease: str) -> str | None:
        row = await self._one("SELECT holder FROM lease WHERE name = ?", lease)
        if row is None or await self._gone([row_mapping.maker_of(row[0])]):
            return None
        return str(row[0].rpartition(" ")[0])

    async def database_now(self) -> datetime:
        ((now,),) = await self._all(f"SELECT {self._clock}")
        return row_mapping.instant(now)

    async def clock_reading(self) -> ClockSample | None:
        row = await self._one(CLOCK_READING, self._node)
        return None if row is None else row_mapping.clock_reading(row)

    async def trusted_by_others(self) -> datetime | None:
        row = await self._one(
            f"SELECT min(trusted_at - stored_at) + {self._clock} FROM clock_reading WHERE node_id <> ?", self._node
        )
        return None if row is None else row_mapping.maybe_instant(row[0])

    async def checkpoints(self) -> Sequence[NodeCheckpoint]:
        found = await self._all(f"SELECT {_CHECKPOINT} FROM audit_checkpoint ORDER BY node_id, writer")
        return [NodeCheckpoint(*row) for row in found]


class NodeStatements(NodeQueries):
    """The part of the transaction about nodes."""

    async def insert_node(self, node: Node) -> None:
        await self._run(
            "UPDATE clock_reading SET node_id = ? WHERE node_id = '' AND NOT EXISTS (SELECT 1 FROM node)", node.node_id
        )
        values = (
            node.node_id,
            node.name,
            row_mapping.micros(node.joined_at),
            row_mapping.micros(node.seen_at),
            node.version,
            node.hsm,
        )
        await self._insert("node", "node_id, name, joined_at, seen_at, version, hsm", values)

    async def delete_node(self, node_id: str) -> None:
        await self._swap(f"node {node_id}", "DELETE FROM node WHERE node_id = ?", node_id)
        await self._run("DELETE FROM clock_reading WHERE node_id = ?", node_id)
        await self._run("DELETE FROM maker WHERE node_id = ?", node_id)
        await self._run("DELETE FROM domain_key_holder WHERE hsm NOT IN (SELECT hsm FROM node)")

    async def put_checkpoint(self, checkpoint: NodeCheckpoint) -> None:
        await self._run(
            f"INSERT INTO audit_checkpoint ({_CHECKPOINT}) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (node_id, writer) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash, "
            "at = excluded.at, signature = excluded.signature WHERE audit_checkpoint.sequence < excluded.sequence",
            *msgspec.structs.astuple(checkpoint),
        )

    async def put_clock_reading(self, reading: ClockSample) -> None:
        await self._run(
            "INSERT INTO clock_reading (node_id, trusted_at, boot, uptime_micros, taken_on_micros, stored_at) "
            f"VALUES (?, ?, ?, ?, ?, {self._clock}) "
            "ON CONFLICT (node_id) DO UPDATE SET trusted_at = excluded.trusted_at, boot = excluded.boot, "
            "uptime_micros = excluded.uptime_micros, taken_on_micros = excluded.taken_on_micros, "
            "stored_at = excluded.stored_at",
            self._node,
            row_mapping.micros(reading.trusted_at),
            reading.uptime.boot_id,
            round(reading.uptime.seconds * 1e6),
            reading.accepted_skew // timedelta(microseconds=1),
        )
