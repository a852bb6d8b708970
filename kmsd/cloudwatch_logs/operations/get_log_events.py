"""GetLogEvents: return the events of one stream, forwards or backwards, in pages."""

from __future__ import annotations

from typing import cast

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, service_of, store_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.event_page import MAX_BYTES, MAX_EVENTS, PAGE_TOKEN, EventPage
from kmsd.cloudwatch_logs.event_reader import EventReader, PageBudget
from kmsd.cloudwatch_logs.events import LogEvent, position_text
from kmsd.cloudwatch_logs.ports import MAX_TIMESTAMP, FrameQuery
from kmsd.cloudwatch_logs.streams import require_stream
from kmsd.errors import AccessDeniedException, InvalidParameterException
from kmsd.operations.declaration import Call, Operation


class Request(shapes.LogShape, frozen=True):
    """botocore: GetLogEventsRequest."""

    log_stream_name: shapes.LogStreamName
    log_group_name: shapes.LogGroupName | None = None
    log_group_identifier: shapes.LogGroupIdentifier | None = None
    start_time: shapes.Timestamp | None = None
    end_time: shapes.Timestamp | None = None
    next_token: shapes.Token | None = None
    limit: shapes.EventsLimit = MAX_EVENTS
    start_from_head: bool = False
    unmask: bool = False


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: GetLogEventsResponse."""

    events: list[shapes.OutputLogEvent]
    next_forward_token: shapes.Token
    next_backward_token: shapes.Token


async def handle(request: Request, call: Call) -> Response:
    """Return a page. Its events are in order of time in either direction."""
    stream = await require_stream(call, request.log_stream_name)
    backwards, after, before = _from(request)
    until = MAX_TIMESTAMP if request.end_time is None else request.end_time
    wanted = FrameQuery(
        start=max(request.start_time or 0, log_group_of(call).oldest(call.now), _millis(after)),
        end=until if before is None else min(until, _millis(before) + 1),
        streams=frozenset((stream.stream_id,)),
        descending=backwards,
    )
    names = {stream.stream_id: stream.name}
    reading = EventReader(service_of(call), store_of(call), log_group_of(call), call.now, names, shown=True)
    page = EventPage(request.limit)
    most = PageBudget(request.limit, MAX_BYTES)
    async for run in reading.events(wanted, after=after, before=before, most=most):
        if not page.add(run):
            break
    events = page.events[::-1] if backwards else page.events
    # Each event was rendered when its frame was opened: the JSON text holds what the declared type describes.
    shown = cast("list[shapes.OutputLogEvent]", [event.shown for event in events])
    return Response(shown, *_tokens(request, events))


def _from(request: Request) -> tuple[bool, int, int | None]:
    """Return the direction (True: backwards), the position to read after, and the one to read before."""
    if request.next_token is None:
        return not request.start_from_head, -1, None
    found = PAGE_TOKEN.fullmatch(request.next_token)
    if found is None:
        raise InvalidParameterException("The specified nextToken is invalid.")
    position = int(found["position"])
    return (False, position, None) if found["way"] == "f" else (True, -1, position)


def _millis(position: int) -> int:
    return max(position, 0) >> 96


def _tokens(request: Request, events: list[LogEvent]) -> tuple[str, str]:
    """Return the tokens for both directions. An empty page returns the position that was asked for."""
    if events:
        return f"f/{position_text(events[-1].position)}", f"b/{position_text(events[0].position)}"
    # "If you have reached the end of the stream, it returns the same token" as was passed in (GetLogEvents).
    here = request.next_token[2:] if request.next_token is not None else position_text(0)
    return f"f/{here}", f"b/{here}"


OPERATION = Operation(
    LOGS,
    "GetLogEvents",
    Request,
    Response,
    handle,
    access=(
        OnLogGroup(identifier="log_group_identifier", stream="log_stream_name"),
        # GetLogEvents, unmask: a request that sets it needs "the logs:Unmask permission".
        OnLogGroup(identifier="log_group_identifier", stream="log_stream_name", action="Unmask", when="unmask"),
    ),
    raises=(AccessDeniedException,),
)
