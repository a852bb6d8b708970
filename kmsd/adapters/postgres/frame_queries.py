"""Queries on log frames, on a connection of the log service's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kmsd.adapters.postgres.access import PostgresAccess
from kmsd.cloudwatch_logs.frames import MAX_SPAN, Frame, WrappedKey
from kmsd.cloudwatch_logs.ports import FrameQuery, StoredFrame, StreamSummary

_HEAD = "stream_id, data_key_id, frame_id, first_at, last_at, ingested_at, events, size, packing"
_FIELDS = len(Frame._fields)
_LONG = 60_000
"""Milliseconds; a frame that spans more is long (`log_frame.is_long`)."""
# A frame spans so much at most, so one bound of its times gives a bound of the other, and an index of either suffices.
# The place from which a branch goes on is the only bound of that kind: the server would start at the wider of two.
_BRANCH = """
    (SELECT {head}, expires_on FROM log_frame
    WHERE group_id = $1 AND is_long = {is_long} AND first_at < $2 AND last_at >= $3
        AND ({by}, frame_id) {beyond} ({at}, {id}){streams}
    ORDER BY {by}{descending}, frame_id{descending} LIMIT $4)"""
_FIND = """
    {short} UNION ALL {long}
    ORDER BY {by}{descending}, frame_id{descending} LIMIT $4"""
_SHORT = {"is_long": "false", "at": "$5", "id": "$6"}
_LONGER = {"is_long": "true", "at": "$7", "id": "$8"}
_ASCENDING = {"by": "first_at", "beyond": ">", "descending": ""}
_DESCENDING = {"by": "last_at", "beyond": "<", "descending": " DESC"}
# LIMIT keeps the planner from joining: each frame is looked up in its own partition.
_LOOK_UP = """
    SELECT {found} FROM unnest($2::bytea[], $3::boolean[], $4::bigint[], $5::bytea[], $6::bigint[])
        AS wanted (stream_id, is_long, first_at, frame_id, expires_on)
    CROSS JOIN LATERAL (
        SELECT {columns} FROM log_frame
        WHERE group_id = $1 AND stream_id = wanted.stream_id AND is_long = wanted.is_long
        AND first_at = wanted.first_at AND frame_id = wanted.frame_id AND expires_on = wanted.expires_on
        LIMIT 1) AS found"""
_CONTENTS = _LOOK_UP.format(found="found.frame_id, found.sealed", columns="frame_id, sealed")
_DATA_KEYS = _LOOK_UP.format(
    found="found.data_key_id, found.kms_key, found.context_arn, found.wrapped_key",
    columns="data_key_id, kms_key, context_arn, wrapped_key",
)
_SUMMARIES = """
    SELECT stream_id, min(first_at), max(last_at), max(ingested_at), sum(events)::bigint, sum(size)::bigint
    FROM log_frame_sum WHERE group_id = $1 GROUP BY stream_id HAVING sum(events) > 0"""
Place = tuple[int, bytes]
"""Time and id of a frame, in the order of a search."""


class FrameQueries(PostgresAccess):
    """Reads frames, and keeps the results of queries."""

    async def find(
        self, group_id: bytes, wanted: FrameQuery, beyond: Place | None, count: int
    ) -> Sequence[StoredFrame]:
        """Return the next `count` frames in the order of a search. None: from the first on."""
        places = [_begin(wanted, span, beyond) for span in (_LONG, MAX_SPAN)]
        values: list[object] = [group_id, wanted.end, wanted.start, count, *places[0], *places[1]]
        streams = ""
        if wanted.streams is not None:
            # Equal, if there is one: then the index of the stream has the order of the search.
            one = len(wanted.streams) == 1
            streams = " AND stream_id = $9" if one else " AND stream_id = ANY($9::bytea[])"
            values.append(next(iter(wanted.streams)) if one else list(wanted.streams))
        order = {**(_DESCENDING if wanted.descending else _ASCENDING), "streams": streams}
        rows = await self._all(_search(order), *values)
        return [StoredFrame(Frame._make(row[:_FIELDS]), str(row[_FIELDS])) for row in rows]

    async def contents(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Mapping[bytes, bytes]:
        """Return the encrypted events of frames, by frame id, as far as they are where they were found."""
        return {row[0]: row[1] for row in await self._all(_CONTENTS, *_places(group_id, frames))}

    async def data_keys(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Mapping[bytes, WrappedKey]:
        """Return the data keys of frames, by data key id, as far as the frames are where they were found."""
        return {row[0]: WrappedKey._make(row) for row in await self._all(_DATA_KEYS, *_places(group_id, frames))}

    async def summaries(self, group_id: bytes) -> Mapping[bytes, StreamSummary]:
        """Return the summaries of all streams that have events, by stream id."""
        return {row[0]: StreamSummary._make(row[1:]) for row in await self._all(_SUMMARIES, group_id)}

    async def put_result(self, query_id: str, content: bytes) -> None:
        """Store the result of a query. To do it twice does no harm."""
        await self._run(
            "INSERT INTO log_result (query_id, content) VALUES ($1, $2) "
            "ON CONFLICT (query_id) DO UPDATE SET content = excluded.content",
            query_id,
            content,
        )

    async def get_result(self, query_id: str) -> bytes | None:
        """Return the result of a query; None if there is none."""
        row = await self._one("SELECT content FROM log_result WHERE query_id = $1", query_id)
        return None if row is None else bytes(row[0])

    async def delete_result(self, query_id: str) -> None:
        """Remove the result of a query."""
        await self._run("DELETE FROM log_result WHERE query_id = $1", query_id)


def _search(order: Mapping[str, str]) -> str:
    short, longer = (_BRANCH.format(head=_HEAD, **order, **branch) for branch in (_SHORT, _LONGER))
    return _FIND.format(short=short, long=longer, **order)


def _begin(wanted: FrameQuery, span: int, beyond: Place | None) -> Place:
    """Return the place after which a search finds frames of a span."""
    if wanted.descending:
        first = (wanted.end + span, b"")
        return first if beyond is None else min(first, beyond)
    first = (wanted.start - span, b"")
    return first if beyond is None else max(first, beyond)


def place_of(stored: StoredFrame, *, descending: bool) -> Place:
    """Return where a search goes on after a frame."""
    return stored.frame.last_at if descending else stored.frame.first_at, stored.frame.frame_id


def _places(group_id: bytes, frames: Sequence[StoredFrame]) -> tuple[object, ...]:
    return (
        group_id,
        [one.frame.stream_id for one in frames],
        [one.frame.last_at - one.frame.first_at > _LONG for one in frames],
        [one.frame.first_at for one in frames],
        [one.frame.frame_id for one in frames],
        [int(one.segment) for one in frames],
    )
