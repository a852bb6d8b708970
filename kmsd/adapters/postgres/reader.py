"""Reader with the cache of one process, and the question that keeps it fresh."""

from __future__ import annotations

from collections.abc import Callable

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.access import Member, PostgresAccess
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.frame_queries import FrameQueries
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql.cached_reader import CachedReader

REPLICATED = "(SELECT pg_logical_emit_message(true, 'kmsd', ''))::text"
"""Column that makes a question confirmed: a message in the log, in a transaction of its own. Its COMMIT waits until the
synchronous standby has it. A server that was replaced has no standby any more, and cannot answer."""
_QUESTION = """
    SELECT present.seq, present.trimmed, change.seq, change.subject, EXISTS (SELECT FROM node WHERE node_id = $2){more}
    FROM change_seq AS present LEFT JOIN change ON change.seq > $1 ORDER BY change.seq, change.subject"""
_PLAIN = _QUESTION.format(more=", current_setting('synchronous_standby_names') <> ''")
_CONFIRMED = _QUESTION.format(more=f", {REPLICATED}")


class PostgresReader(PostgresAccess, CachedReader):
    """Implements `kmsd.ports.Reader`."""

    def __init__(
        self, member: Member, settings: PostgresSettings, connector: Connector, on_waiting: Callable[[], object]
    ) -> None:
        """`on_waiting` is called when a statement waits for long: it lets a question start."""
        super().__init__(member)
        self._on_waiting = on_waiting
        self._settings, self._connector = settings, connector
        self._asking: Session | None = None
        self.frames = FrameQueries(member)
        """Reads log frames. They are large, so it has a connection of its own."""
        self._is_new = True
        """True until the first answer on a new connection: everything cached is invalid."""

    @property
    def asks_confirmed(self) -> bool:
        """True if the questions wait for a synchronous standby, as far as the present connection tells."""
        return self._asking is not None and is_confirmed(self._settings, self._asking)

    @property
    def is_connected(self) -> bool:
        """True if a connection for questions is there, and was not noticed to be lost."""
        return self._asking is not None and not self._asking.is_lost

    async def ask(self) -> None:
        """Ask what was committed, and invalidate it. Connects, if needed. Raises `StoreUnavailable`."""
        asking = await self._connected_for_questions()
        confirmed = is_confirmed(self._settings, asking)
        rows = await asking.ask(_CONFIRMED if confirmed else _PLAIN, self._seen, self._node)
        if not confirmed and self._settings.questions == "auto" and rows[0][5]:
            # The server has got a synchronous standby since the connection was made.
            asking.has_synchronous_standbys = True
            rows = await asking.ask(_CONFIRMED, self._seen, self._node)
        self._member.require_known(is_known=rows[0][4])
        present, trimmed = rows[0][0], rows[0][1]
        if self._is_new or not trimmed <= self._seen <= present:
            self._invalidate_all()
            self._is_new = False
        for row in rows:
            if row[3] is not None:
                self._invalidate(row[3])
        if present != self._seen:
            self._generation += 1
        self._seen = present

    async def _connected_for_questions(self) -> Session:
        """Return the session that asks, after connecting again if it or one that reads is lost."""
        asking = self._asking
        if asking is not None and not any(one is None or one.is_lost for one in self._sessions):
            return asking
        self.end()
        # All to one server: what the others read is as fresh as the first one has proved.
        first, second, third = await self._connector.connect(3)
        self._asking = asking = Session(first, self._settings.question_seconds)
        self._session = Session(second, self._settings.call_seconds, self._on_waiting)
        self.frames = FrameQueries(self._member, Session(third, self._settings.call_seconds, self._on_waiting))
        self._is_new = True
        schema.require_known(await schema.version(asking))
        return asking

    @property
    def _sessions(self) -> tuple[Session | None, ...]:
        return self._asking, self._session, self.frames.session

    def end(self) -> None:
        """End the connections."""
        for session in self._sessions:
            if session is not None:
                session.end()


def is_confirmed(settings: PostgresSettings, session: Session) -> bool:
    """True if questions on a session are to wait for the synchronous standby."""
    if settings.questions == "auto":
        return session.has_synchronous_standbys
    return settings.questions == "confirmed"
