"""Find, among several servers, the one that accepts writes.

All hosts are asked at once, under one deadline: a host that was frozen, or cut off, takes no time from the others. Of
the servers that accept writes that with the highest timeline is taken, because each promotion begins a new one. A
server that has been replaced may not know it, and still accept writes.

While one host has not answered, the others are asked again and again: the one that does not answer may have failed, and
one of the others may be about to be promoted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from kmsd.adapters.postgres.errors import translated
from kmsd.adapters.postgres.settings import Host, PostgresSettings
from kmsd.ports import StoreError, StoreUnavailable, StoreUnfit

APPLICATION = "kmsd"
SESSION: Mapping[str, str] = {
    "application_name": APPLICATION,
    # A process or host that vanishes in a transaction holds its locks this long.
    "idle_in_transaction_session_timeout": "2s",
    "tcp_user_timeout": "2s",
    "lock_timeout": "5s",
    # A statement whose client has given up is ended. A COMMIT is not: while it waits, it does not look.
    "client_connection_check_interval": "2s",
    "default_transaction_isolation": "read committed",
    # What is acknowledged is durable, and with synchronous standbys in two places, whatever the server's default is.
    "synchronous_commit": "on",
    # The warning of a commit that did not wait for its standby must arrive (kmsd.adapters.postgres.session).
    "client_min_messages": "warning",
    "jit": "off",
}
GRACE_SECONDS = 0.5
"""Seconds to wait for further hosts once one accepts writes: another one may have replaced it."""
REPEAT_SECONDS = 0.2
"""Seconds until a host that does not accept writes is asked again, while another one has not answered."""
_STATEMENTS = 256
"""Prepared statements kept by a connection."""
_ROLE = """
    SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
        CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_walfile_name(pg_current_wal_lsn()) END,
        current_setting('synchronous_standby_names') <> ''"""
_TIMELINE_DIGITS = 8
"""Hexadecimal digits of the timeline, with which the name of a WAL file begins."""


class Server(msgspec.Struct, frozen=True):
    """A connection to a server that accepts writes."""

    connection: asyncpg.Connection
    host: Host
    timeline: int
    has_synchronous_standbys: bool


class _Attempt:
    """Attempt to connect to one host."""

    def __init__(self, host: Host, settings: PostgresSettings, least_timeline: int) -> None:
        self.host, self._settings, self._least_timeline = host, settings, least_timeline
        self.connection: asyncpg.Connection | None = None
        self.refusal: BaseException | None = None
        """Why the attempt before this one failed."""
        self.begun = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(self._run(), name=f"kmsd-connect-{host}")

    async def _run(self) -> Server:
        with translated():
            self.connection = await self._connect()
            is_read_only, wal_file, has_standbys = await self.connection.fetchrow(_ROLE)
        if is_read_only:
            self.connection.terminate()
            raise StoreUnavailable("it is a standby, or read-only")
        timeline = timeline_of(wal_file)
        if timeline < self._least_timeline:
            self.connection.terminate()
            raise StoreUnavailable(f"it was replaced: its timeline is {timeline}, and {self._least_timeline} was seen")
        return Server(self.connection, self.host, timeline, has_standbys)

    async def _connect(self) -> asyncpg.Connection:
        given = self._settings
        return await asyncpg.connect(
            host=self.host.name,
            port=self.host.port,
            user=given.url.user,
            # Not None: then the driver would look for one in the environment and in ~/.pgpass.
            password=given.password or "",
            database=given.url.database,
            ssl=False if self.host.is_socket or given.tls is None else given.tls,
            timeout=given.connect_seconds,
            server_settings=dict(SESSION),
            statement_cache_size=_STATEMENTS,
        )

    async def end(self) -> None:
        """Give the attempt up and close its connection. No cancel request is sent: it could hang as well."""
        if self.connection is None:
            self.task.cancel()
        else:
            self.connection.terminate()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.exception()  # retrieved, or asyncio would log it


def timeline_of(wal_file: str) -> int:
    """Return the timeline of a server, of the name of its present WAL file."""
    return int(wal_file[:_TIMELINE_DIGITS], 16)


class Connector:
    """Connects to the servers of one database."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._timeline = 0
        """Highest timeline seen. A server with a lower one was replaced, and is not used even if it is the only one."""
        self.failovers = 0
        """Times that a server with a higher timeline than the one before was found."""

    async def connect(self, count: int = 1) -> Sequence[Server]:
        """Return `count` connections to the server that accepts writes, all to the same one.

        Raises `StoreUnavailable` if none is found in time, `StoreUnfit` if every host refuses for a reason that an
        operator must resolve.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.connect_seconds
        servers = [await self._best(self._settings.url.hosts, deadline)]
        try:
            while len(servers) < count:
                servers.append(await self._best([servers[0].host], deadline))
            _require_one(servers)
        except BaseException:
            for server in servers:
                server.connection.terminate()
            raise
        if 0 < self._timeline < servers[0].timeline:
            self.failovers += 1
        self._timeline = servers[0].timeline
        return servers

    async def _best(self, hosts: Sequence[Host], deadline: float) -> Server:
        attempts = [self._attempt(host) for host in hosts]
        best: Server | None = None
        try:
            await self._wait(attempts, deadline)
            found = [one.task.result() for one in attempts if _succeeded(one.task)]
            best = max(found, key=lambda server: server.timeline, default=None)
            if best is None:
                raise self._failure(attempts)
        finally:
            await asyncio.gather(
                *(one.end() for one in attempts if best is None or one.connection is not best.connection)
            )
        return best

    def _attempt(self, host: Host) -> _Attempt:
        return _Attempt(host, self._settings, self._timeline)

    async def _wait(self, attempts: list[_Attempt], deadline: float) -> None:
        """Wait for all, until the deadline; once a server is found, for the others `GRACE_SECONDS` only."""
        loop, is_found, firsts = asyncio.get_running_loop(), False, [one.task for one in attempts]
        while (pending := [one.task for one in attempts if not one.task.done()]) and (
            left := deadline - loop.time()
        ) > 0:
            await asyncio.wait(pending, timeout=min(left, REPEAT_SECONDS), return_when=asyncio.FIRST_COMPLETED)
            if any(_succeeded(one.task) for one in attempts):
                if not is_found:
                    is_found, deadline = True, min(deadline, loop.time() + GRACE_SECONDS)
            elif not all(task.done() for task in firsts):
                await self._ask_again(attempts)

    async def _ask_again(self, attempts: list[_Attempt]) -> None:
        """Replace the attempts that have failed, and began long enough ago."""
        latest = asyncio.get_running_loop().time() - REPEAT_SECONDS
        for number, one in enumerate(attempts):
            if one.task.done() and one.begun <= latest:
                refusal = one.task.exception()
                await one.end()
                attempts[number] = self._attempt(one.host)
                attempts[number].refusal = refusal

    def _failure(self, attempts: Sequence[_Attempt]) -> StoreError:
        late = StoreUnavailable(f"no answer in {self._settings.connect_seconds:g} s")
        errors = [one.task.exception() if one.task.done() else one.refusal or late for one in attempts]
        text = "; ".join(f"{one.host}: {error}" for one, error in zip(attempts, errors, strict=True))
        kind = StoreUnfit if all(isinstance(error, StoreUnfit) for error in errors) else StoreUnavailable
        return kind(f"no server of {self._settings.url.database} accepts writes ({text})")


def _require_one(servers: Sequence[Server]) -> None:
    """Raise `StoreUnavailable` if an address has moved from one server to another meanwhile."""
    if len({server.timeline for server in servers}) > 1:
        raise StoreUnavailable(f"{servers[0].host} is another server than a moment ago")


def _succeeded(task: asyncio.Task[Server]) -> bool:
    """True if the task has found a server that accepts writes. Raises what is no error of the store."""
    if not task.done():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, StoreError):
        raise error
    return error is None
