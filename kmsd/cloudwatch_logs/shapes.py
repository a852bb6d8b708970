"""Shapes of CloudWatch Logs, from botocore's model of API version 2014-03-28.

Event text and search terms are secret: they never appear in the audit trail or in error messages.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kmsd.operations.kms.shapes import Constraint


class LogShape(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Structure of the Logs API: `kms_key_id` here is `kmsKeyId` on the wire."""


_NAME = Constraint(min_length=1, max_length=512, pattern=r"[\.\-_/#A-Za-z0-9]+")
_STREAM = Constraint(min_length=1, max_length=512, pattern=r"[^:*]*")
_IDENTIFIER = Constraint(min_length=1, max_length=2048, pattern=r"[\w#+=/:,.@-]*")
_TAG_KEY = Constraint(min_length=1, max_length=128)

LogGroupName = Annotated[str, _NAME]
LogGroupNamePattern = Annotated[str, Constraint(min_length=0, max_length=512, pattern=r"[\.\-_/#A-Za-z0-9]*")]
LogGroupIdentifier = Annotated[str, _IDENTIFIER]
LogGroupNames = Annotated[list[str], Constraint(member=_NAME)]
LogGroupIdentifiers = Annotated[list[str], Constraint(member=_IDENTIFIER)]
FiftyLogGroupIdentifiers = Annotated[list[str], Constraint(min_length=1, max_length=50, member=_IDENTIFIER)]
LogGroupClass = Annotated[str, Constraint(values=("STANDARD", "INFREQUENT_ACCESS", "DELIVERY", "ESSENTIALS"))]
LogStreamName = Annotated[str, _STREAM]
LogStreamNames = Annotated[list[str], Constraint(min_length=1, max_length=100, member=_STREAM)]
AccountIds = Annotated[
    list[str],
    Constraint(min_length=0, max_length=20, member=Constraint(min_length=12, max_length=12, pattern=r"^\d{12}$")),
]
OrderBy = Annotated[str, Constraint(values=("LogStreamName", "LastEventTime"))]
KmsKeyId = Annotated[str, Constraint(max_length=256)]
ResourceIdentifier = Annotated[str, Constraint(min_length=1, max_length=2048, pattern=r"[\w+=/:,.@\-\*]*")]
ResourceArn = Annotated[str, Constraint(min_length=1, max_length=1011, pattern=r"[\w+=/:,.@-]*")]
Tags = Annotated[dict[str, str], Constraint(min_length=1, max_length=50)]
TagKeys = Annotated[list[str], Constraint(min_length=0, max_length=50, member=_TAG_KEY)]
TagList = Annotated[list[str], Constraint(min_length=1, member=_TAG_KEY)]
Token = Annotated[str, Constraint(min_length=1)]
SequenceToken = Annotated[str, Constraint(min_length=1)]
DescribeLimit = Annotated[int, Constraint(minimum=1, maximum=50)]
EventsLimit = Annotated[int, Constraint(minimum=1, maximum=10000)]
Timestamp = Annotated[int, Constraint(minimum=0)]
"""Milliseconds since 1970-01-01T00:00:00Z."""
FilterPattern = Annotated[str, Constraint(min_length=0, max_length=1024, secret=True)]
QueryString = Annotated[str, Constraint(min_length=0, max_length=10000, secret=True)]
QueryId = Annotated[str, Constraint(min_length=1, max_length=256)]
QueryLanguage = Annotated[str, Constraint(values=("CWLI", "SQL", "PPL"))]
QueryStatus = Annotated[
    str, Constraint(values=("Scheduled", "Running", "Complete", "Failed", "Cancelled", "Timeout", "Unknown"))
]
QueryLimit = Annotated[int, Constraint(minimum=1, maximum=100000)]
QueriesLimit = Annotated[int, Constraint(minimum=1, maximum=1000)]
ResultItems = Annotated[int, Constraint(minimum=0, maximum=10000)]
ResultToken = Annotated[str, Constraint(max_length=1024)]


class InputLogEvent(LogShape, frozen=True, gc=False):
    """Event to store. The decoder checks both constraints itself, as batches have thousands of events."""

    timestamp: Annotated[int, msgspec.Meta(ge=0), Constraint(minimum=0)]
    message: Annotated[str, msgspec.Meta(min_length=1), Constraint(min_length=1, secret=True)]


InputLogEvents = Annotated[list[InputLogEvent], Constraint(min_length=1, max_length=10000, secret=True)]


class Entity(LogShape, frozen=True):
    """Subject of an event, for correlation across services that kmsd does not provide."""

    key_attributes: Annotated[dict[str, str], Constraint(min_length=2, max_length=4)] | None = None
    attributes: Annotated[dict[str, str], Constraint(min_length=0, max_length=10)] | None = None


class RejectedLogEventsInfo(LogShape, frozen=True):
    """Indexes of the events of a batch that were rejected."""

    too_new_log_event_start_index: int | None = None
    too_old_log_event_end_index: int | None = None
    expired_log_event_end_index: int | None = None


class RejectedEntityInfo(LogShape, frozen=True):
    """Reason for which the entity of a batch was rejected."""

    error_type: str


class OutputLogEvent(LogShape, frozen=True, omit_defaults=False, gc=False):
    """Event of one stream."""

    timestamp: int
    message: str
    ingestion_time: int


class FilteredLogEvent(LogShape, frozen=True, omit_defaults=False, gc=False):
    """Event of any stream of a group."""

    log_stream_name: str
    timestamp: int
    message: str
    ingestion_time: int
    event_id: str


class LogGroupEntry(LogShape, frozen=True):
    """Entry of DescribeLogGroups."""

    log_group_name: LogGroupName
    creation_time: Timestamp
    metric_filter_count: int | None
    arn: str
    stored_bytes: int | None
    log_group_class: str | None
    log_group_arn: str
    retention_in_days: int | None = None
    kms_key_id: KmsKeyId | None = None


class LogStreamEntry(LogShape, frozen=True):
    """Entry of DescribeLogStreams."""

    log_stream_name: LogStreamName
    creation_time: Timestamp
    arn: str
    stored_bytes: int | None
    first_event_timestamp: Timestamp | None = None
    last_event_timestamp: Timestamp | None = None
    last_ingestion_time: Timestamp | None = None
    upload_sequence_token: SequenceToken | None = None


class QueryInfo(LogShape, frozen=True):
    """Entry of DescribeQueries."""

    query_id: QueryId
    query_language: QueryLanguage
    query_string: QueryString
    status: QueryStatus
    create_time: Timestamp
    log_group_name: LogGroupName
    query_duration: int | None = None
    bytes_scanned: float | None = None
    user_identity: str | None = None


class ResultField(LogShape, frozen=True, gc=False):
    """Value of one field in a result row."""

    field: str
    value: str


class QueryStatistics(LogShape, frozen=True, omit_defaults=False):
    """Amount of data that a query read."""

    records_matched: float = 0.0
    records_scanned: float = 0.0
    estimated_records_skipped: float = 0.0
    bytes_scanned: float = 0.0
    estimated_bytes_skipped: float = 0.0
    log_groups_scanned: float = 0.0
