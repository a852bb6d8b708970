"""Ports of the logs service: segments of encrypted events, the audit trail, and the store's log groups and queries.

Extends `kmsd.ports` and is on the same architectural layer. No event text passes here in the clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.ports import Reader, Store, Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from kmsd.cloudwatch_logs.groups import LogGroup, LogStream, ResultsKey
    from kmsd.cloudwatch_logs.insights.stored_query import StoredQuery


MAX_TIMESTAMP = 1 << 48
"""Upper bound of event timestamps, in milliseconds (exclusive)."""


class SegmentsError(Exception):
    """A segment operation failed."""


class SegmentsUnavailable(SegmentsError):
    """Segments cannot be read or written now; nothing was acknowledged."""


class SegmentDamaged(SegmentsError):
    """A segment does not contain what was written to it. Other segments are not affected."""

    def __init__(self, segment: str, first_at: int = 0, last_at: int = 0) -> None:
        super().__init__(f"segment {segment} is damaged between {first_at} and {last_at}")
        self.first_at = first_at
        self.last_at = last_at


class StoredFrame(NamedTuple):
    """Location of a frame."""

    frame: Frame
    segment: str
    """The segment's name; invalid once the segment is dropped or rewritten."""
    offset: int = 0
    """Offset of the encrypted events in the segment, if it is a file."""
    length: int = 0


class StreamSummary(NamedTuple):
    """Summary of all frames of a stream. Times are milliseconds."""

    first_at: int
    last_at: int
    ingested_at: int
    events: int
    size: int


class FrameQuery(msgspec.Struct, frozen=True):
    """Query for the frames that may hold an event with `start <= timestamp < end`."""

    start: int = 0
    end: int = MAX_TIMESTAMP
    streams: frozenset[bytes] | None = None
    """None: all streams."""
    descending: bool = False


class DropResult(msgspec.Struct, frozen=True):
    """Number of segments that `Segments.apply_retention` removed and rewrote."""

    segments: int = 0
    rewritten: int = 0


class Segments(Protocol):
    """Segments of encrypted frames, which the adapter cuts as suits it: files of a group, or partitions of a table.

    All methods may be called concurrently from one event loop; several processes share the segments. A frame that one
    process has acknowledged is visible to all of them from that moment.
    """

    async def append(
        self, group_id: bytes, frame: Frame, sealed: bytes, data_key: WrappedKey, *, expires_at: int = 0
    ) -> None:
        """Append a frame with its data key; durable on return.

        `expires_at` is when the group's present retention ends for all of its events, in milliseconds; 0: never. It
        says which frames are best kept together. What counts is the retention when it is applied.

        Raises `SegmentsUnavailable`: the frame is then in no segment, unless it cannot be found out if it is in one.
        """
        ...

    def find(self, group_id: bytes, wanted: FrameQuery) -> AsyncIterator[StoredFrame]:
        """Iterate over frames, by `first_at` (ascending) or by `last_at` (descending). Reads the index lazily.

        Raises `SegmentsUnavailable`.
        """
        ...

    async def read(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Sequence[bytes]:
        """Return the encrypted events of each frame. Raises `SegmentDamaged`, `SegmentsUnavailable`."""
        ...

    async def data_keys(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Mapping[bytes, WrappedKey]:
        """Return the data keys of frames, by data key id.

        Raises `SegmentDamaged` if the segment of a frame does not hold it, `SegmentsUnavailable`.
        """
        ...

    async def summaries(self, group_id: bytes) -> Mapping[bytes, StreamSummary]:
        """Return the summaries of all streams that have events, by stream id. Raises `SegmentsUnavailable`."""
        ...

    async def sync(self, group_id: bytes) -> None:
        """Make durable every frame that `find` can return, also those that a dead process wrote unacknowledged.

        Raises `SegmentsUnavailable`.
        """
        ...

    async def delete_group(self, group_id: bytes) -> None:
        """Remove everything of a group. A missing group is no error."""
        ...

    async def apply_retention(self, group_id: bytes, *, before: int, dead_streams: frozenset[bytes]) -> DropResult:
        """Remove events older than `before` (milliseconds) and frames of dead streams, segment by segment.

        A frame is removed only when all of its events are too old. Segments that are open for writing stay.
        """
        ...

    async def drop_expired(self, now: int) -> Sequence[bytes]:
        """Remove segments in which everything is past the groups' retention. Return the ids of their groups.

        Does nothing where `apply_retention` removes whole segments. Raises `SegmentsUnavailable`.
        """
        ...

    async def maintain(self, now: int) -> None:
        """Finish this process's segments that are old enough, and those that dead processes left."""
        ...

    async def put_result(self, query_id: str, content: bytes) -> None:
        """Store the encrypted result of a query; durable on return. Raises `SegmentsUnavailable`."""
        ...

    async def get_result(self, query_id: str) -> bytes:
        """Return what `put_result` stored. Raises `SegmentDamaged` if it is missing."""
        ...

    async def delete_result(self, query_id: str) -> None:
        """Remove a result. A missing one is no error."""
        ...

    async def check(self) -> None:
        """Check that there is room to write. Raises `SegmentsUnavailable`."""
        ...

    async def close(self) -> None:
        """Finish the open segments. Acknowledged frames survive without it."""
        ...


class TrailBatch(msgspec.Struct, frozen=True):
    """Consecutive audit records of one file, as they are in the trail. The sequences are equally long."""

    times: Sequence[int]
    """`eventTime` of each record, in milliseconds."""
    texts: Sequence[str]
    """One JSON object per record."""
    ends: Sequence[int]
    """Offset in the file after each record, in bytes."""
    end: int
    """Bytes of the file that have been read: where the next batch begins."""
    complete: bool
    """True if nothing more can be read from the file at this moment."""
    lacking: int = 0
    """Number of records still to be skipped when the file ended."""


class TrailChain(msgspec.Struct, frozen=True):
    """Files of one writer."""

    writer: str
    own: bool
    """True if this process writes the chain."""
    files: Sequence[str]
    """File names, oldest first; a name is never reused."""
    mark: int
    """Changes when something is added to the last file."""


class AuditTrail(Protocol):
    """Durable records of the audit trail, for copying. One process at a time copies each chain."""

    async def chains(self) -> Sequence[TrailChain]:
        """Return all chains. Raises `AuditUnavailable`."""
        ...

    async def lock_chain(self, writer: str) -> bool:
        """Acquire the right to copy this chain; False if another process has it. Raises `AuditUnavailable`."""
        ...

    def unlock_chain(self, writer: str) -> None:
        """Release the right to copy this chain. The end of the process releases it too."""
        ...

    async def read(self, writer: str, file: str, *, begin: int, skip: int) -> TrailBatch:
        """Return records from byte `begin` on, without the first `skip` of them, a bounded number at a time.

        Returns only records that are durable and cannot be rolled back. Returns none of a chain as long as another
        process writes it. Raises `AuditUnavailable`.
        """
        ...


class LogReader(Reader, Protocol):
    """Read access to the store, including log groups."""

    async def log_group(self, account: str, name: str) -> LogGroup | None:
        """Return a group by its name; None if there is none."""
        ...

    async def log_groups_after(
        self, account: str, name: str, count: int, *, prefix: str = "", containing: str = ""
    ) -> Sequence[LogGroup]:
        """Return at most `count` groups whose names sort after `name`, in that order, optionally filtered."""
        ...

    async def all_log_groups(self) -> Sequence[LogGroup]:
        """Return the groups of all accounts. Not for the request path."""
        ...

    async def log_groups_kept_for_days(self) -> Sequence[LogGroup]:
        """Return all groups with a retention."""
        ...

    async def count_log_groups(self, account: str) -> int:
        """Return the number of groups of an account."""
        ...

    async def log_group_tags(self, group_id: bytes) -> Mapping[str, str]:
        """Return the tags of a group."""
        ...

    async def log_stream(self, group_id: bytes, name: str) -> LogStream | None:
        """Return a stream by its name; None if there is none."""
        ...

    async def log_streams_after(
        self, group_id: bytes, name: str, count: int, *, prefix: str = "", descending: bool = False
    ) -> Sequence[LogStream]:
        """Return at most `count` streams (-1: all) after `name`, by name; before a non-empty `name` if `descending`."""
        ...

    async def log_stream_names(self, group_id: bytes, stream_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        """Return the names of a group's existing streams, by id."""
        ...

    async def dead_log_groups(self, before: datetime) -> Sequence[bytes]:
        """Return the ids of groups deleted before an instant that may still have data in segments."""
        ...

    async def dead_log_streams(self) -> Mapping[bytes, frozenset[bytes]]:
        """Return the ids of deleted streams that may still have data in segments, by group."""
        ...

    async def results_key(self, account: str) -> ResultsKey:
        """Return the key for query results of an account."""
        ...

    async def log_query(self, query_id: str) -> StoredQuery | None:
        """Return a query by its id; None if there is none."""
        ...

    async def log_queries_before(
        self, account: str, position: str, count: int, *, group: str | None = None, status: str | None = None
    ) -> Sequence[StoredQuery]:
        """Return at most `count` queries older than `position` (empty: the newest first), optionally filtered."""
        ...

    async def old_log_queries(self, before: datetime, count: int) -> Sequence[str]:
        """Return the ids of at most `count` queries that started before an instant."""
        ...

    async def count_running_queries(self, account: str, now: datetime) -> int:
        """Return the number of an account's running queries that are not overdue."""
        ...


class LogTransaction(LogReader, Transaction, Protocol):
    """Transaction on the store, including log groups."""

    async def insert_log_group(self, group: LogGroup) -> None:
        """Insert a group. Raises `StoreConflict` if the name is taken."""
        ...

    async def update_log_group(self, old: LogGroup, new: LogGroup) -> None:
        """Replace retention and key. The stored revision must equal that of `old`, and is incremented."""
        ...

    async def delete_log_group(self, group: LogGroup, now: datetime) -> None:
        """Delete a group with its streams and tags, and keep its id as dead. Raises `StoreConflict` if it is gone."""
        ...

    async def purge_dead_log_group(self, group_id: bytes) -> None:
        """Delete the id of a dead group, whose segments have been removed."""
        ...

    async def put_log_group_tags(self, group_id: bytes, tags: Mapping[str, str]) -> None:
        """Add tags, replacing those with the same keys."""
        ...

    async def delete_log_group_tags(self, group_id: bytes, tag_keys: Sequence[str]) -> None:
        """Remove tags; absent ones are no error."""
        ...

    async def insert_log_stream(self, stream: LogStream) -> None:
        """Insert a stream. Raises `StoreConflict` if the name is taken."""
        ...

    async def delete_log_stream(self, stream: LogStream) -> None:
        """Delete a stream and keep its id as dead. Raises `StoreConflict` if it is gone."""
        ...

    async def purge_dead_log_streams(self, group_id: bytes, stream_ids: Sequence[bytes]) -> None:
        """Delete the ids of dead streams, whose frames have been removed from the segments."""
        ...

    async def put_results_key(self, old: ResultsKey, kms_key: str | None) -> None:
        """Replace the key. The stored revision must equal that of `old`, and is incremented."""
        ...

    async def insert_log_query(self, query: StoredQuery) -> None:
        """Insert a running query."""
        ...

    async def complete_log_query(self, query: StoredQuery) -> bool:
        """Record how a query ended, unless it has already ended. True if it was recorded."""
        ...

    async def delete_log_query(self, query_id: str) -> None:
        """Delete a query. A missing one is no error."""
        ...


class LogStore(Store, Protocol):
    """Store that also keeps log groups."""

    async def read(self) -> LogReader:
        """Return a reader, like `kmsd.ports.Store.read`."""
        ...

    def write(self) -> AbstractAsyncContextManager[LogTransaction]:
        """Open a transaction, like `kmsd.ports.Store.write`."""
        ...
