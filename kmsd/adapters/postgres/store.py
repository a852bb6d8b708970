"""Store in PostgreSQL.

Each process has up to five connections. One asks before each request if anything has changed (`read_index`), one reads,
one writes, and two are for log frames (`frame_queries`, `frame_lane`). A transaction that writes raises the number in
`change_seq` first, which makes it the only one that writes. Questions and transactions ask in the same statement if
this host is still a node: one that was removed is refused.

A commit whose answer is lost is settled before anything is answered (`settlement`). A COMMIT is never cancelled: the
server would report a success that no standby has.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kmsd import __version__
from kmsd.adapters.postgres import schema, settlement
from kmsd.adapters.postgres.access import CLOCK, RAISE_NUMBER, Member, PostgresAccess
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.frame_lane import FrameLane
from kmsd.adapters.postgres.frame_queries import FrameQueries
from kmsd.adapters.postgres.read_index import ReadIndex
from kmsd.adapters.postgres.reader import PostgresReader
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql.transaction import SqlTransaction
from kmsd.cloudwatch_logs.ports import LogReader, LogTransaction
from kmsd.ports import StoreError, StoreTimeout, StoreUnavailable, StoreUnfit
from kmsd.ports.counters import StoreCounters

_POSITION = "SELECT seq, EXISTS (SELECT FROM node WHERE node_id = $1) FROM change_seq"
"""The number of a transaction that has just raised it, and if this host is a node, as of that moment."""
_END_SILENT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
    AND application_name = current_setting('application_name') AND backend_xid IS NOT NULL
    AND state = 'active' AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '2 seconds'"""
"""Ends transactions of processes that were frozen between the two messages with which a statement is prepared and run.

To the server such a transaction is not idle: `idle_in_transaction_session_timeout` does not end it, and
`statement_timeout` neither. No COMMIT is ended: while it runs, the server waits for no message.
"""
_FORGET_SECONDS = 3600
"""Seconds after which the row of a process that has ended is deleted."""
_KEPT_CHANGES = 4096
_KEPT_OUTCOMES = 2**18
"""Outcomes of transactions that are kept: more than can begin while one is settled."""
_TRIM_EVERY = 256
_PLACES = 2**62
PROBE_SECONDS = 1.0
"""Seconds for which a successful `check` is cached."""


class PostgresTransaction(PostgresAccess, SqlTransaction):
    """Implements `kmsd.ports.Transaction`. The store begins and ends it."""

    async def beat(self) -> None:
        """Say that this process and its node are alive, and forget processes that have not done so for long."""
        await self._run(
            f"INSERT INTO maker (maker, node_id, seen_at) VALUES (?, ?, {CLOCK}) "
            "ON CONFLICT (maker) DO UPDATE SET seen_at = excluded.seen_at",
            self._maker,
            self._node,
        )
        await self._run(f"UPDATE node SET seen_at = {CLOCK}, version = ? WHERE node_id = ?", __version__, self._node)
        await self._run(f"DELETE FROM maker WHERE seen_at <= {CLOCK} - {_FORGET_SECONDS * 1_000_000}")


class PostgresStore:
    """Implements `kmsd.cloudwatch_logs.ports.LogStore`."""

    def __init__(self, settings: PostgresSettings, node_id: str = "", hsm: str = "") -> None:
        """Connect at the first use. `node_id` is that of this host; empty: it is no node yet."""
        self.settings, self.connector = settings, Connector(settings)
        self._member = Member(secrets.randbelow(_PLACES), node_id, hsm)
        self._index = ReadIndex(self._ask)
        self._reader = PostgresReader(self._member, settings, self.connector, self._index.request)
        self.lane = FrameLane(self._member, settings, self.connector, self._index.request)
        self._writing: Session | None = None
        self._is_announced = False
        """True if a committed transaction has said that this process is alive."""
        self._writer = asyncio.Lock()
        self._proved_at = float("-inf")
        self._counters = StoreCounters()

    @classmethod
    async def open(cls, settings: PostgresSettings, node_id: str = "", hsm: str = "") -> PostgresStore:
        """Open the database. Raises `StoreUnavailable` (`StoreMissing`, `StoreUnfit`)."""
        store = cls(settings, node_id, hsm)
        await store._index.barrier()
        return store

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Register `notify`, as `kmsd.ports.Store` says."""
        self._reader.on_object_destroying = notify

    @property
    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses, for metrics."""
        return self._reader.hits, self._reader.misses

    @property
    def counters(self) -> StoreCounters:
        """Questions and failovers, for metrics."""
        self._counters.failovers = self.connector.failovers
        return self._counters

    async def _ask(self) -> None:
        was_connected = self._reader.is_connected
        try:
            await self._ask_once()
        except StoreUnfit:
            raise
        except StoreUnavailable:
            if not was_connected:
                raise
            # An old connection may lead to a server that was replaced meanwhile. Questions may be repeated.
            self._counters.question_retries += 1
            await self._ask_once()

    async def _ask_once(self) -> None:
        begun = time.monotonic()
        try:
            await self._reader.ask()
        except StoreError:
            # A server that was frozen keeps its connections: what is written there would wait for a longer deadline.
            self._reader.end()
            if self._writing is not None:
                self._writing.end()
            self.lane.end()
            raise
        self._counters.questions.observe(time.monotonic() - begun)
        self._index.pause = 1 / self.settings.questions_per_second if self._reader.asks_confirmed else 0.0

    async def read(self) -> LogReader:
        await self._index.barrier()
        return self._reader

    async def frames(self) -> FrameQueries:
        """Return what reads log frames, on a server that was just asked, like `read`. Raises `StoreUnavailable`."""
        await self._index.barrier()
        return self._reader.frames

    @property
    def frames_found(self) -> FrameQueries:
        """Reads frames that `frames` has found. They do not change, so no server is asked before."""
        return self._reader.frames

    @asynccontextmanager
    async def write(self) -> AsyncIterator[LogTransaction]:
        async with self._writer:
            session, transaction_id = await self._connected(), secrets.token_hex(16)
            try:
                await session.execute(f"BEGIN; {RAISE_NUMBER}")
                ((seq, is_known),) = await session.fetch(_POSITION, self._member.node_id)
                self._member.require_known(is_known=is_known)
                transaction = PostgresTransaction(self._member, session)
                if not self._is_announced:
                    # Before any promise of this process: one that is not in the table counts as ended.
                    await transaction.beat()
                yield transaction
                await self._commit(session, transaction_id, seq)
                self._is_announced = True
            except StoreTimeout:
                # The writer before this one may have been frozen.
                await self._roll_back(session)
                await session.fetch(_END_SILENT)
                raise
            except BaseException:
                await self._roll_back(session)
                raise

    async def beat(self) -> None:
        """Say that this process is alive. Raises `StoreUnavailable`."""
        self._is_announced = False
        async with self.write():
            pass

    async def _connected(self) -> Session:
        """Return the session that writes, after connecting again if it is lost."""
        if self._writing is None or self._writing.is_lost:
            seconds, request = self.settings.call_seconds, self._index.request
            self._writing = await schema.open_session(self.connector, seconds, request)
        return self._writing

    async def _commit(self, session: Session, transaction_id: str, seq: int) -> None:
        """Commit; if the answer is lost, find out if it worked. Raises `StoreUnavailable` if it did not."""
        if seq % _TRIM_EVERY == 0:
            await session.execute("DELETE FROM change WHERE seq <= $1", seq - _KEPT_CHANGES)
            await session.execute("DELETE FROM outcome WHERE seq <= $1", seq - _KEPT_OUTCOMES)
            await session.execute("UPDATE change_seq SET trimmed = greatest(trimmed, $1)", seq - _KEPT_CHANGES)
        try:
            await session.execute_confirmed(
                f"INSERT INTO outcome (id, what, seq) VALUES ('{transaction_id}', 'committed', {seq}); COMMIT"
            )
        except StoreUnavailable as exc:
            session.end()
            if not await settlement.was_committed(transaction_id, self.settings, self._connected):
                raise StoreUnavailable(f"the transaction was not committed: {exc}") from exc

    async def _roll_back(self, session: Session) -> None:
        if session.is_in_transaction:
            try:
                await session.execute("ROLLBACK")
            except StoreError:
                session.end()

    async def check(self) -> None:
        if time.monotonic() - self._proved_at < PROBE_SECONDS:
            return
        async with self.write():
            pass  # it raises the number of the last transaction
        self._proved_at = time.monotonic()

    async def close(self) -> None:
        async with self._writer:
            if self._writing is not None:
                self._writing.end()
            self._reader.end()
