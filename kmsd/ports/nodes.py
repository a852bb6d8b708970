"""Part of the store's port: nodes, and the readings of their clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kmsd.domain.trusted_time import ClockSample
    from kmsd.ports.store_records import Node, NodeCheckpoint


class NodeReader(Protocol):
    """Read access."""

    @property
    def hsm(self) -> str:
        """Name of this node's HSM. Empty: that of the first node."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """Return all nodes, sorted by name. A database of one host has none."""
        ...

    async def holder_of(self, lease: str) -> str | None:
        """Return the name of the process that has a lease; None if none has, or if it has ended."""
        ...

    async def database_now(self) -> datetime:
        """Return the time of day by the database's clock."""
        ...

    async def clock_reading(self) -> ClockSample | None:
        """Return the stored clock sample of this node; None before the first check."""
        ...

    async def trusted_by_others(self) -> datetime | None:
        """Return the earliest trusted time of all other nodes: each stored sample, and the time since by the database.

        None if there is no other node.
        """
        ...

    async def checkpoints(self) -> Sequence[NodeCheckpoint]:
        """Return the published checkpoints of all nodes, also of removed ones, by node and chain."""
        ...


class NodeWriter(Protocol):
    """Changes."""

    async def insert_node(self, node: Node) -> None:
        """Insert a node. Raises `StoreConflict` if the id or the name is taken.

        The first node takes over the clock sample of a database that had no nodes.
        """
        ...

    async def delete_node(self, node_id: str) -> None:
        """Delete a node, with its clock sample. Raises `StoreConflict` if there is none.

        Every process of that node is refused by the next question or transaction that begins after the commit.
        """
        ...

    async def put_checkpoint(self, checkpoint: NodeCheckpoint) -> None:
        """Publish the checkpoint of a chain, in place of an earlier one. A later one stays."""
        ...

    async def put_clock_reading(self, reading: ClockSample) -> None:
        """Replace the stored clock sample of this node."""
        ...
