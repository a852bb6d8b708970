"""Transactions of one process that share a commit.

SQLite has one writer at a time, and most of its time goes to two syncs: of the record in the audit trail, and of the
commit. While a transaction that has run its last statement waits for its record, the next one of the same process runs
in the same transaction of SQLite, in a savepoint until its own last statement. One sync of the trail and one commit
serve them all. The first that has its record admits no more.

A transaction that raises before its last statement is undone alone. One that raises afterwards, because its record
could not be written, may have others built on it: all are rolled back, and all raise. None returns before the commit,
not even one that was refused: it may have been refused for what another one of them has changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from kmsd.adapters.sqlite.connection import translated
from kmsd.ports import StoreError, StoreUnavailable

MAX_MEMBERS = 64
"""Transactions in one commit. Bounds how long other processes wait for the lock."""

BUSY_SECONDS = 5.0
"""Seconds that a transaction waits for another process's."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.005
"""Seconds between two attempts to lock the database. A commit takes about a millisecond."""

_Result = TypeVar("_Result")


class _Group:
    """Transactions that are committed together, or not at all."""

    __slots__ = ("admits", "ended", "failure", "is_committed", "members", "running")

    def __init__(self) -> None:
        self.members = 0
        self.running = 0
        """Members whose block has not ended."""
        self.admits = True
        self.failure: StoreError | None = None
        """Why all members are rolled back, once that is known."""
        self.is_committed = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done after the commit or the rollback."""

    def fail(self, failure: StoreError) -> None:
        """Commit none of the members, and admit no more."""
        self.failure = self.failure or failure
        self.admits = False

    async def settle(self) -> None:
        """Wait for the commit or the rollback, even if the caller is cancelled meanwhile."""
        try:
            await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            await asyncio.wait([self.ended])
            raise


class Member:
    """One transaction of a group."""

    __slots__ = ("_finish", "group", "is_finished", "is_first")

    def __init__(self, group: _Group, finish: Callable[[Member], None], *, is_first: bool) -> None:
        self.group = group
        self.is_first = is_first
        self.is_finished = False
        self._finish = finish

    def finish(self) -> None:
        """Let the next transaction run: this one runs no more statements. Raises `StoreUnavailable`."""
        if not self.is_finished:
            self._finish(self)


class SharedCommit:
    """The writing connection of a process, used from one event loop. Methods raise the port's errors."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with translated():
            connection.execute("PRAGMA busy_timeout = 0")  # `_lock` waits instead
        self.busy_seconds = BUSY_SECONDS
        self._turn = asyncio.Lock()
        """Held by the transaction that runs statements."""
        self._group: _Group | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-commit")
        """BEGIN IMMEDIATE may wait for another process, COMMIT for the disk."""

    @asynccontextmanager
    async def member(self) -> AsyncIterator[Member]:
        """Run a block as a transaction: durable when it ends, rolled back if it raises."""
        member = await self._begin()
        group = member.group
        try:
            yield member
            member.finish()
        except BaseException as exc:
            is_undone = self._undo(member, exc)
            await self._leave(group)
            if is_undone and not group.is_committed and isinstance(exc, Exception):
                raise StoreUnavailable(str(group.failure)) from exc
            raise
        group.admits = False
        await self._leave(group)
        if not group.is_committed:
            failure = group.failure or StoreUnavailable("the transaction could not be committed")
            raise type(failure)(str(failure)) from failure

    async def _begin(self) -> Member:
        """Wait for the turn, and begin in the group that admits the transaction, or in a new one."""
        await self._turn.acquire()
        try:
            group = self._group
            if group is not None and group.admits and group.members < MAX_MEMBERS:
                with translated():
                    self._connection.execute("SAVEPOINT member")
            else:
                if group is not None:
                    await group.settle()
                group = self._group = await self._begin_group()
        except BaseException:
            self._turn.release()
            raise
        group.members += 1
        group.running += 1
        return Member(group, self._finish, is_first=group.members == 1)

    async def _begin_group(self) -> _Group:
        try:
            await self.in_thread(self._lock)
        except BaseException:
            await self.in_thread(self._roll_back)
            raise
        return _Group()

    def _lock(self) -> None:
        """Begin a transaction as soon as no other process writes. Runs on the thread.

        SQLite's own busy handler sleeps for 1, 2, 5, 10 … 100 ms: longer and longer beside a process that writes all
        the time, while that one leaves the lock alone for a fraction of a millisecond after each commit.
        """
        begun = time.monotonic()
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                waited = time.monotonic() - begun
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited >= self.busy_seconds:
                    raise
                time.sleep(min(max(_SHORTEST_PAUSE, waited / 20), _LONGEST_PAUSE))
            else:
                return

    def _finish(self, member: Member) -> None:
        group = member.group
        member.is_finished = True
        try:
            if group.failure is not None:
                raise StoreUnavailable(str(group.failure))
            with translated():
                if not member.is_first:
                    self._connection.execute("RELEASE member")
            if not self._connection.in_transaction:
                # Some errors roll back everything, not only the statement.
                raise StoreUnavailable("the database has rolled the transaction back")
        finally:
            self._turn.release()

    def _undo(self, member: Member, exc: BaseException) -> bool:
        """Undo a transaction that has raised. True if others of its group can still be committed."""
        failure = StoreUnavailable(f"another transaction of the same commit has failed ({type(exc).__name__})")
        if member.is_finished:
            member.group.fail(failure)
            return False
        member.is_finished = True
        try:
            if not member.is_first:
                self._connection.execute("ROLLBACK TO member")
                self._connection.execute("RELEASE member")
                return True
        except sqlite3.Error:
            pass  # some errors roll back everything, and the savepoint with it
        finally:
            self._turn.release()
        member.group.fail(failure)
        return False

    async def _leave(self, group: _Group) -> None:
        """Wait for the end of the group. The last of its members starts it."""
        group.running -= 1
        if not group.running:
            end = asyncio.get_running_loop().run_in_executor(self._thread, self._end, group)
            end.add_done_callback(lambda _: group.ended.set_result(None))
        await group.settle()

    def _end(self, group: _Group) -> None:
        """Commit or roll back. Runs on the thread."""
        try:
            if group.failure is None:
                with translated():
                    self._connection.execute("COMMIT")
                group.is_committed = True
        except StoreError as error:
            group.fail(error)
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    async def in_thread(self, act: Callable[[], _Result]) -> _Result:
        """Run `act` to its end on the thread, even if the caller is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, act)
        try:
            with translated():
                return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    async def close(self) -> None:
        """Wait for the last commit, and end the thread."""
        async with self._turn:
            if self._group is not None:
                await self._group.settle()
            self._thread.shutdown()
