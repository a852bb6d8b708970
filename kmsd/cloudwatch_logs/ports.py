"""What the Logs side asks of the world: where sealed events lie, and what the store knows of groups and queries.

Beside `kmsd.ports`, on the same floor. Nothing that passes here is event text in the clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.ports import Reader, Store, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from kmsd.cloudwatch_logs.groups import LogGroup, LogStream, ResultsKey
    from kmsd.cloudwatch_logs.insights.stored_query import StoredQuery


MAX_TIMESTAMP = 1 << 48
"""Milliseconds that no event reaches."""


class SegmentsError(Exception):
    """Segments did not do what was asked."""


class SegmentsUnavailable(SegmentsError):
    """Segments cannot be read or written now; nothing was acknowledged."""


class SegmentDamaged(SegmentsError):
    """What lies in a segment is not what was written there. Other segments are not concerned."""

    def __init__(self, segment: str, first_at: int = 0, last_at: int = 0) -> None:
        super().__init__(f"segment {segment} is damaged between {first_at} and {last_at}")
        self.first_at = first_at
        self.last_at = last_at


class StoredFrame(NamedTuple):
    """Where a frame lies."""

    frame: Frame
    segment: str
    """The segment's name; its life ends when the segment is dropped or written anew."""
    offset: int
    """Of the sealed events in the segment."""
    length: int


class StreamSummary(NamedTuple):
    """What all frames of a stream come to. Times are milliseconds."""

    first_at: int
    last_at: int
    ingested_at: int
    events: int
    size: int


class FrameQuery(msgspec.Struct, frozen=True):
    """Frames to find: those that may hold an event with `start <= timestamp < end`."""

    start: int = 0
    end: int = MAX_TIMESTAMP
    streams: frozenset[bytes] | None = None
    """None: of all streams."""
    descending: bool = False


class DropResult(msgspec.Struct, frozen=True):
    """What `Segments.drop` removed."""

    segments: int = 0
    rewritten: int = 0


class Segments(Protocol):
    """Append-only files of sealed frames, one folder for each group, one writer for each process.

    All methods may be called concurrently from one event loop; several processes work on the same folder. What was
    acknowledged by one process is found by all of them from that moment.
    """

    async def append(self, group_id: bytes, frame: Frame, sealed: bytes, data_key: WrappedKey) -> None:
        """Add a frame, and its data key if the segment does not hold it yet; durable on return.

        Raises `SegmentsUnavailable`: the frame is then in no segment.
        """
        ...

    def find(self, group_id: bytes, wanted: FrameQuery) -> Iterator[StoredFrame]:
        """The frames, by `first_at` (ascending) or by `last_at` (descending); their index is read as one goes.

        Raises `SegmentsUnavailable`.
        """
        ...

    async def read(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Sequence[bytes]:
        """The sealed events of each. Raises `SegmentDamaged`, `SegmentsUnavailable`."""
        ...

    def data_key(self, group_id: bytes, stored: StoredFrame) -> WrappedKey:
        """The data key of a frame. Raises `SegmentDamaged` if its segment does not hold it."""
        ...

    def summaries(self, group_id: bytes) -> Mapping[bytes, StreamSummary]:
        """By stream id, of all streams that have events. Raises `SegmentsUnavailable`."""
        ...

    async def sync(self, group_id: bytes) -> None:
        """Make durable whatever can be found, also what a process that died had written and not acknowledged.

        Raises `SegmentsUnavailable`.
        """
        ...

    async def delete_group(self, group_id: bytes) -> None:
        """Remove everything of a group; none there is no error."""
        ...

    async def apply_retention(self, group_id: bytes, *, before: int, dead_streams: frozenset[bytes]) -> DropResult:
        """Remove what is older than `before` (milliseconds) and what dead streams left, segment by segment.

        Of events that are too old whole frames go, once all of their events are. What is being written to stays.
        """
        ...

    async def maintain(self, now: int) -> None:
        """Finish the segments of this process that are old enough, and those that dead processes left."""
        ...

    async def put_result(self, query_id: str, content: bytes) -> None:
        """Keep the sealed result of a query; durable on return. Raises `SegmentsUnavailable`."""
        ...

    async def get_result(self, query_id: str) -> bytes:
        """What `put_result` kept. Raises `SegmentDamaged` if it is not there."""
        ...

    async def delete_result(self, query_id: str) -> None:
        """Remove it; none there is no error."""
        ...

    async def check(self) -> None:
        """Prove that there is room to write. Raises `SegmentsUnavailable`."""
        ...

    async def close(self) -> None:
        """Finish what is being written; nothing acknowledged is lost without."""
        ...


class TrailBatch(msgspec.Struct, frozen=True):
    """Audit records of one file that follow each other, as they stand in the trail. The sequences are equally long."""

    times: Sequence[int]
    """`eventTime` of each, in milliseconds."""
    texts: Sequence[str]
    """One JSON object each."""
    ends: Sequence[int]
    """Bytes of the file up to and with each."""
    end: int
    """Bytes of the file that have been read: where the next batch begins."""
    complete: bool
    """Nothing more can be read in the file at this moment."""
    lacking: int = 0
    """How many records the file has less than were to be left out."""


class TrailChain(msgspec.Struct, frozen=True):
    """One writer's files."""

    writer: str
    own: bool
    """This process writes it."""
    files: Sequence[str]
    """Names, the oldest first; a name is never given to another file."""
    mark: int
    """The same as before: nothing was added to the last file."""


class AuditTrail(Protocol):
    """The durable records of the audit trail, for whoever copies them: of each chain one process at a time."""

    async def chains(self) -> Sequence[TrailChain]:
        """All chains. Raises `AuditUnavailable`."""
        ...

    async def lock_chain(self, writer: str) -> bool:
        """Become the one who copies this chain; False: another process is. Raises `AuditUnavailable`."""
        ...

    def unlock_chain(self, writer: str) -> None:
        """Leave the chain to others; it happens by itself when the process ends."""
        ...

    async def read(self, writer: str, file: str, *, begin: int, skip: int) -> TrailBatch:
        """Records from byte `begin` on, without the first `skip` of them, a bounded number at a time.

        Only what is durable, and can never be taken back: of a chain that another process writes nothing, as long as it
        does. Raises `AuditUnavailable`.
        """
        ...


class LogReader(Reader, Protocol):
    """What the store holds, log groups included."""

    async def log_group(self, account: str, name: str) -> LogGroup | None:
        """A group by its name."""
        ...

    async def log_groups_after(
        self, account: str, name: str, count: int, *, prefix: str = "", containing: str = ""
    ) -> Sequence[LogGroup]:
        """At most `count` groups whose names sort after `name`, in that order; filtered, if asked."""
        ...

    async def log_groups_kept_for_days(self) -> Sequence[LogGroup]:
        """All groups with a retention."""
        ...

    async def count_log_groups(self, account: str) -> int:
        """How many groups an account has."""
        ...

    async def log_group_tags(self, group_id: bytes) -> Mapping[str, str]:
        """The tags of a group."""
        ...

    async def log_stream(self, group_id: bytes, name: str) -> LogStream | None:
        """A stream by its name."""
        ...

    async def log_streams_after(
        self, group_id: bytes, name: str, count: int, *, prefix: str = "", descending: bool = False
    ) -> Sequence[LogStream]:
        """At most `count` streams (-1: all) after `name`, by name; before it, if `descending` and it is not empty."""
        ...

    async def log_stream_names(self, group_id: bytes, stream_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        """The names of streams that exist in a group, by their ids."""
        ...

    async def dead_log_groups(self, before: datetime) -> Sequence[bytes]:
        """Ids of groups that were deleted before an instant and may have left something in segments."""
        ...

    async def dead_log_streams(self) -> Mapping[bytes, frozenset[bytes]]:
        """Ids of deleted streams that may have left something in segments, by group."""
        ...

    async def results_key(self, account: str) -> ResultsKey:
        """The key for query results of an account."""
        ...

    async def log_query(self, query_id: str) -> StoredQuery | None:
        """A query by its id."""
        ...

    async def log_queries_before(
        self, account: str, position: str, count: int, *, group: str | None = None, status: str | None = None
    ) -> Sequence[StoredQuery]:
        """At most `count` queries older than `position` (empty: the newest first); filtered, if asked."""
        ...

    async def old_log_queries(self, before: datetime, count: int) -> Sequence[str]:
        """Ids of at most `count` queries that were started before an instant."""
        ...

    async def count_running_queries(self, account: str, now: datetime) -> int:
        """How many queries of an account are under way and not overdue."""
        ...


class LogTransaction(LogReader, Transaction, Protocol):
    """Changes of what the store holds, log groups included."""

    async def insert_log_group(self, group: LogGroup) -> None:
        """Raises `StoreConflict` if the name is taken."""
        ...

    async def update_log_group(self, old: LogGroup, new: LogGroup) -> None:
        """Replace retention and key; the stored revision must still be that of `old`, and grows by one."""
        ...

    async def delete_log_group(self, group: LogGroup, now: datetime) -> None:
        """With its streams and tags; its id is remembered as dead. Raises `StoreConflict` if it is gone."""
        ...

    async def purge_dead_log_group(self, group_id: bytes) -> None:
        """Its segments are removed for good."""
        ...

    async def put_log_group_tags(self, group_id: bytes, tags: Mapping[str, str]) -> None:
        """Add tags, replacing those of the same keys."""
        ...

    async def delete_log_group_tags(self, group_id: bytes, tag_keys: Sequence[str]) -> None:
        """Remove tags; absent ones are no error."""
        ...

    async def insert_log_stream(self, stream: LogStream) -> None:
        """Raises `StoreConflict` if the name is taken."""
        ...

    async def delete_log_stream(self, stream: LogStream) -> None:
        """Its id is remembered as dead. Raises `StoreConflict` if it is gone."""
        ...

    async def purge_dead_log_streams(self, group_id: bytes, stream_ids: Sequence[bytes]) -> None:
        """What they left in segments is removed for good."""
        ...

    async def put_results_key(self, old: ResultsKey, kms_key: str | None) -> None:
        """Replace the key; the stored revision must still be that of `old`, and grows by one."""
        ...

    async def insert_log_query(self, query: StoredQuery) -> None:
        """A query that is under way."""
        ...

    async def complete_log_query(self, query: StoredQuery) -> bool:
        """Write down how a query ended, unless it has ended already; whether it was so."""
        ...

    async def delete_log_query(self, query_id: str) -> None:
        """None there is no error."""
        ...


class LogStore(Store, Protocol):
    """A store that also keeps log groups."""

    async def read(self) -> LogReader:
        """As `kmsd.ports.Store.read`."""
        ...

    def write(self) -> AbstractAsyncContextManager[LogTransaction]:
        """As `kmsd.ports.Store.write`."""
        ...
