"""DescribeLogStreams: list streams of a group, by name or by their last event, in pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of, service_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.events import position_text
from kmsd.cloudwatch_logs.groups import LogStream, millis, stream_arn
from kmsd.cloudwatch_logs.ports import StreamSummary
from kmsd.custody.pagination import Page, Pager
from kmsd.errors import InvalidParameterException
from kmsd.operations.declaration import Call, Operation

MAX_PAGE = 50
BY_TIME = "LastEventTime"


class Request(shapes.LogShape, frozen=True):
    """botocore: DescribeLogStreamsRequest."""

    log_group_name: shapes.LogGroupName | None = None
    log_group_identifier: shapes.LogGroupIdentifier | None = None
    log_stream_name_prefix: shapes.LogStreamName | None = None
    order_by: shapes.OrderBy = "LogStreamName"
    descending: bool = False
    next_token: shapes.Token | None = None
    limit: shapes.DescribeLimit = MAX_PAGE


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: DescribeLogStreamsResponse."""

    log_streams: list[shapes.LogStreamEntry]
    next_token: shapes.Token | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page of streams."""
    if request.order_by == BY_TIME and request.log_stream_name_prefix is not None:
        raise InvalidParameterException("Cannot order by LastEventTime with a logStreamNamePrefix.")
    group = log_group_of(call)
    filters = {
        "prefix": request.log_stream_name_prefix or "",
        "order": request.order_by,
        "descending": str(request.descending),
    }
    pager = Pager(await call.service_sealer(), f"DescribeLogStreams {group.group_id.hex()}", filters, request.limit)
    after = await pager.start(request.next_token)
    summaries = await service_of(call).segments.summaries(group.group_id)
    if request.order_by == BY_TIME:
        page = await _by_time(request, call, pager, after, summaries)
    else:
        streams = await reader_of(call).log_streams_after(
            group.group_id, after, request.limit + 1, prefix=filters["prefix"], descending=request.descending
        )
        page = await pager.cut(streams, lambda stream: stream.name)
    entries = [_entry(group.arn, stream, summaries.get(stream.stream_id)) for stream in page.items]
    return Response(entries, page.next_marker)


async def _by_time(
    request: Request, call: Call, pager: Pager, after: str, summaries: Mapping[bytes, StreamSummary]
) -> Page[LogStream]:
    """Return a page ordered by the last event; streams without events sort first."""
    streams = await reader_of(call).log_streams_after(log_group_of(call).group_id, "", -1)

    def place(stream: LogStream) -> str:
        summary = summaries.get(stream.stream_id)
        return f"{0 if summary is None else summary.last_at + 1:020d} {stream.name}"

    ordered = sorted(streams, key=place, reverse=request.descending)
    following: Sequence[LogStream] = [
        stream
        for stream in ordered
        if not after or (place(stream) < after if request.descending else place(stream) > after)
    ]
    return await pager.cut(following[: request.limit + 1], place)


def _entry(group: str, stream: LogStream, summary: StreamSummary | None) -> shapes.LogStreamEntry:
    return shapes.LogStreamEntry(
        log_stream_name=stream.name,
        creation_time=millis(stream.created_at),
        arn=stream_arn(group, stream.name),
        # "As of June 17, 2019, this parameter is no longer supported for log streams, and is always reported as zero."
        stored_bytes=0,
        first_event_timestamp=None if summary is None else summary.first_at,
        last_event_timestamp=None if summary is None else summary.last_at,
        last_ingestion_time=None if summary is None else summary.ingested_at,
        upload_sequence_token=position_text(0 if summary is None else summary.ingested_at),
    )


OPERATION = Operation(
    LOGS,
    "DescribeLogStreams",
    Request,
    Response,
    handle,
    access=(OnLogGroup(identifier="log_group_identifier"),),
)
