"""Nodes anchor one another: each publishes its checkpoints in the store, and records those of the others in its trail.

So the trail of one node cannot be cut back to an earlier point, or lost as a whole, without being found: an attacker
on one host reaches neither the store's rows that others have read already, nor the trails of other hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from kmsd.adapters.audit_trail.checkpoint_evidence import Signatures
from kmsd.adapters.audit_trail.format import COPIES, Checkpoint, Malformed, TrailNode, checkpoint_of
from kmsd.adapters.audit_trail.sink import TrailSink
from kmsd.domain.material import AT
from kmsd.ports import AUDIT, AuditUnavailable, NodeCheckpoint, Reader, Store, StoreError

PERIOD_SECONDS = 10.0
"""Seconds between two exchanges."""
_TAIL = 1024 * 1024
"""Bytes at the end of the copies that a new process reads."""

log = structlog.get_logger()


class NodeAnchors:
    """Exchange of checkpoints. One process of each node runs it, for all chains of the node."""

    def __init__(self, directory: Path, node: TrailNode, store: Store, sink: TrailSink) -> None:
        self._copies, self._node = directory / COPIES, node
        self._store, self._sink = store, sink
        self._read_up_to = -1
        """Bytes of the copies that were read; -1: none yet."""
        self._own: dict[str, Checkpoint] = {}
        """Last checkpoint of each chain of this node."""
        self._recorded: dict[tuple[str, str], int] = {}
        """Number of the last checkpoint recorded, or refused, for each chain of another node."""

    async def run(self) -> None:
        """Exchange checkpoints until cancelled. What fails is tried again."""
        while True:
            try:
                await self.exchange()
            except (StoreError, AuditUnavailable, OSError) as exc:
                log.warning("audit_anchors_delayed", detail=str(exc))
            await asyncio.sleep(PERIOD_SECONDS)

    async def exchange(self) -> None:
        """Publish what is new here, record what is new elsewhere. Raises `StoreError`, `AuditUnavailable`, OSError."""
        await asyncio.to_thread(self._read_copies)
        reader = await self._store.read()
        published, keys = await reader.checkpoints(), await self._audit_keys(reader)
        await self._publish({one.writer: one.sequence for one in published if one.node_id == self._node.node_id})
        for one in published:
            chain = (one.node_id, one.writer)
            if one.node_id != self._node.node_id and one.sequence > self._recorded.get(chain, 0):
                await self._record(_as_checkpoint(one), keys)
                self._recorded[chain] = one.sequence

    def _read_copies(self) -> None:
        try:
            size = self._copies.stat().st_size
        except FileNotFoundError:
            return
        start = max(0, size - _TAIL) if self._read_up_to < 0 else min(self._read_up_to, size)
        with self._copies.open("rb") as file:
            file.seek(start)
            data = file.read(size - start)
        whole = data.rfind(b"\n") + 1
        self._read_up_to = start + whole
        for line in data[:whole].split(b"\n"):
            try:
                checkpoint = checkpoint_of(msgspec.json.decode(line, type=dict[str, object]))
            except (msgspec.MsgspecError, UnicodeDecodeError, Malformed):
                continue  # cut by the window, or by a crash
            self._own[checkpoint.writer] = checkpoint

    async def _publish(self, published: Mapping[str, int]) -> None:
        """Publish checkpoints that the store does not know. Report a chain of which it knows a later one."""
        newer = [one for one in self._own.values() if one.sequence > published.get(one.writer, 0)]
        for writer, sequence in published.items():
            own = self._own.get(writer)
            if own is not None and own.sequence < sequence:
                log.error(
                    "audit_trail_behind",
                    writer=writer,
                    signed_here=own.sequence,
                    published=sequence,
                    advice="the trail or its copies were cut: kmsd audit published | kmsd audit verify --anchor -",
                )
        if not newer:
            return
        async with self._store.write() as transaction:
            for one in newer:
                row = NodeCheckpoint(self._node.node_id, one.writer, one.sequence, one.hash, one.at, one.signature)
                await transaction.put_checkpoint(row)

    async def _audit_keys(self, reader: Reader) -> Signatures:
        """Return what verifies checkpoints: the audit key of this node's HSM, and those that others have published."""
        own = self._sink.public_key
        if own is None:
            return Signatures([])
        known = [key for purpose, key in (await reader.service_keys()).items() if purpose.partition(AT)[0] == AUDIT]
        if all(key.public_key != own for key in known):
            async with self._store.write() as transaction:
                await transaction.publish_audit_key(own)
        return Signatures([own, *(key.public_key for key in known if key.public_key)])

    async def _record(self, checkpoint: Checkpoint, keys: Signatures) -> None:
        """Record another node's checkpoint, if an audit key signed it."""
        if keys.holds(checkpoint):
            await self._sink.record_anchor(checkpoint)
        else:
            log.error("audit_anchor_refused", **checkpoint.members())


def _as_checkpoint(row: NodeCheckpoint) -> Checkpoint:
    return Checkpoint(row.writer, row.sequence, row.hash, row.at, row.signature, row.node_id)


def line_of(row: NodeCheckpoint) -> bytes:
    """Return the line of an anchor for a published checkpoint."""
    return _as_checkpoint(row).line()
