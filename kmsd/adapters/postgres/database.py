"""The PostgreSQL database as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

import structlog

from kmsd.adapters.postgres import schema, statistics
from kmsd.adapters.postgres.access import NO_NODE, Member
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.adapters.postgres.tables import PostgresTables, set_triggers
from kmsd.adapters.sql.database import Database
from kmsd.adapters.sql.statistics import Statistics
from kmsd.adapters.sql.tables import MOVED, TablesOfDatabase
from kmsd.cloudwatch_logs.ports import LogStore
from kmsd.event_loop.tasks import cancel_and_wait
from kmsd.ports import StoreError

HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats: several fit into the time after which a process counts as ended."""

log = structlog.get_logger()


class PostgresDatabase(Database):
    """A database on one or several servers."""

    def __init__(self, settings: PostgresSettings, node_id: str = NO_NODE, hsm: str = "") -> None:
        """`node_id` is that of this host, `hsm` the name of its HSM."""
        self._settings, self._node_id, self._hsm = settings, node_id, hsm

    def __str__(self) -> str:
        return str(self._settings.url)

    async def exists(self) -> bool:
        async with schema.connected(self._settings) as session:
            return (await schema.version(session)).number > 0

    async def create(self) -> None:
        await schema.create(self._settings)

    async def schema(self) -> int:
        async with schema.connected(self._settings) as session:
            present = await schema.version(session)
        if present.number == 0:
            schema.require_known(present)
        return present.number

    def newest(self) -> int:
        return schema.newest()

    async def migrate(self) -> int:
        return await schema.migrate(self._settings, Member(0, self._node_id))

    async def date_first_start(self, now: datetime) -> None:
        await schema.date_first_start(self._settings, now)

    async def statistics(self, now: datetime) -> Statistics:
        return await statistics.read(self._settings, self._node_id, now)

    async def problems(self) -> Sequence[str]:
        async with schema.connected(self._settings) as session:
            found = []
            if self._settings.questions == "plain" and session.has_synchronous_standbys:
                found.append(
                    "store.questions is plain, and the server has synchronous standbys: once one of them has replaced "
                    "it, it could go on answering; remove the line"
                )
            if self._settings.questions == "confirmed" and not session.has_synchronous_standbys:
                found.append(
                    "store.questions is confirmed, and the server waits for no standby (synchronous_standby_names is "
                    "empty): an answer proves nothing that a plain one does not"
                )
            if (await session.fetch("SHOW fsync"))[0][0] != "on":
                found.append("fsync is off: the server loses what was acknowledged when its host loses power")
            return found

    @asynccontextmanager
    async def tables(self) -> AsyncIterator[TablesOfDatabase]:
        async with schema.reading(self._settings) as session:
            yield PostgresTables(session)

    @asynccontextmanager
    async def creating(self) -> AsyncIterator[TablesOfDatabase]:
        async with schema.creating(self._settings) as session:
            await set_triggers(session, MOVED, on=False)
            yield PostgresTables(session)
            await set_triggers(session, MOVED, on=True)
            await session.execute("ANALYZE")

    async def retire(self) -> str:
        await schema.delete_nodes(self._settings)
        return f"{self} has no nodes any more, and refuses every host"

    def open(self) -> AbstractAsyncContextManager[LogStore]:
        return self._opened(self._node_id, self._hsm)

    def open_before_joining(self, hsm: str | None = None) -> AbstractAsyncContextManager[LogStore]:
        return self._opened("", self._hsm if hsm is None else hsm)

    @asynccontextmanager
    async def _opened(self, node_id: str, hsm: str) -> AsyncIterator[LogStore]:
        store = PostgresStore(self._settings, node_id, hsm)
        beating = asyncio.create_task(_keep_alive(store), name="kmsd-heartbeat")
        try:
            yield store
        finally:
            await cancel_and_wait([beating])
            await store.close()


async def _keep_alive(store: PostgresStore) -> None:
    """Say every few seconds that this process is alive. A command that ends earlier says so with its first change."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        try:
            await store.beat()
        except StoreError as exc:
            log.warning("heartbeat_failed", detail=str(exc))
