"""FilterLogEvents: return the events of a group, of all or some of its streams, that match a pattern."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from kmsd.cloudwatch_logs import evaluation as log_evaluation
from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of, service_of, store_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.evaluation import Evaluation
from kmsd.cloudwatch_logs.event_page import MAX_EVENTS, PAGE_TOKEN, EventPage
from kmsd.cloudwatch_logs.event_reader import EventReader
from kmsd.cloudwatch_logs.events import LogEvent, position_text
from kmsd.cloudwatch_logs.filter_pattern import pattern as log_filter
from kmsd.cloudwatch_logs.filter_pattern.pattern import Pattern
from kmsd.cloudwatch_logs.ports import MAX_TIMESTAMP, FrameQuery
from kmsd.cloudwatch_logs.streams import require_stream
from kmsd.cloudwatch_logs.work_budget import MAX_REQUEST_BYTES, Budget, TooLarge
from kmsd.errors import AccessDeniedException, InvalidParameterException, ServiceUnavailableException
from kmsd.operations.declaration import Call, Operation

WORK_SECONDS = 1.0
"""Seconds after which a page ends early, with a token to continue: one call must not hold up all others."""


class Request(shapes.LogShape, frozen=True):
    """botocore: FilterLogEventsRequest."""

    log_group_name: shapes.LogGroupName | None = None
    log_group_identifier: shapes.LogGroupIdentifier | None = None
    log_stream_names: shapes.LogStreamNames | None = None
    log_stream_name_prefix: shapes.LogStreamName | None = None
    start_time: shapes.Timestamp | None = None
    end_time: shapes.Timestamp | None = None
    filter_pattern: shapes.FilterPattern = ""
    next_token: shapes.Token | None = None
    limit: shapes.EventsLimit = MAX_EVENTS
    start_from_head: bool | None = None
    interleaved: bool | None = None
    unmask: bool = False


class SearchedLogStream(shapes.LogShape, frozen=True):
    """Search state of a stream, in the older form of the response."""

    log_stream_name: shapes.LogStreamName
    searched_completely: bool


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: FilterLogEventsResponse."""

    events: list[shapes.FilteredLogEvent]
    # AWS about this member: "this parameter returns an empty list", since May 2020.
    searched_log_streams: list[SearchedLogStream]
    next_token: shapes.Token | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page. Results are always interleaved, as in AWS since 2019."""
    pattern = log_filter.compile_pattern(request.filter_pattern)
    budget = Budget(MAX_REQUEST_BYTES, service_of(call).memory)
    try:
        return await _page(request, call, pattern, budget)
    except TooLarge as exc:
        # FilterLogEvents, Errors: "The service cannot complete the request."
        raise ServiceUnavailableException("The service cannot hold more log events now.", detail=str(exc)) from exc
    finally:
        budget.close()


async def _page(request: Request, call: Call, pattern: Pattern, budget: Budget) -> Response:
    backwards, position = _from(request)
    group = log_group_of(call)
    wanted = FrameQuery(
        start=max(request.start_time or 0, group.oldest(call.now), 0 if backwards else max(position or 0, 0) >> 96),
        # "Events with a timestamp later than this time are not returned": unlike GetLogEvents, it is included.
        end=min(
            MAX_TIMESTAMP if request.end_time is None else request.end_time + 1,
            (position >> 96) + 1 if backwards and position is not None else MAX_TIMESTAMP,
        ),
        streams=await _streams(request, call),
        descending=backwards,
    )
    reading = EventReader(service_of(call), store_of(call), group, call.now, budget=budget)
    page, search = (
        EventPage(request.limit),
        _Search(pattern, service_of(call).evaluation, time.monotonic() + WORK_SECONDS),
    )
    after, before = (-1, position) if backwards else (-1 if position is None else position, None)
    reached: LogEvent | None = None
    complete = True
    async for run in reading.events(wanted, after=after, before=before):
        found, last = await search.look(run)
        if not page.add(found):
            reached, complete = page.events[-1], False
            break
        reached = last
        if search.is_over:
            complete = False
            break
    way = "b" if backwards else "f"
    return Response(
        [_shown(event, reading.names) for event in page.events],
        [],
        None if complete or reached is None else f"{way}/{position_text(reached.position)}",
    )


class _Search(msgspec.Struct):
    """Search for a pattern, within the time limit of one page."""

    pattern: Pattern
    evaluation: Evaluation
    until: float
    """Monotonic time at which the page ends."""
    is_over: bool = False
    errors: list[Exception] = []
    """Unexpected errors of the pattern. Such an event does not match, and hides no other."""

    async def look(self, run: Sequence[LogEvent]) -> tuple[list[LogEvent], LogEvent]:
        """Return the events of a run that match, and the last event that was examined."""
        found: list[LogEvent] = []
        at = 0
        while at < len(run) and not self.is_over:
            long = self._is_long(run[at])
            at = await self.evaluation.slice(partial(self._slice, run, at, found), in_thread=long)
            self.is_over = time.monotonic() > self.until
            self._report()
        return found, run[at - 1]

    def _report(self) -> None:
        """Pass errors to the event loop's exception handler, which logs them."""
        while self.errors:
            context = {"message": "a filter pattern failed unexpectedly", "exception": self.errors.pop()}
            asyncio.get_running_loop().call_exception_handler(context)

    def _is_long(self, event: LogEvent) -> bool:
        return log_evaluation.is_long(len(event.message), self.pattern.instructions)

    def _slice(self, run: Sequence[LogEvent], begin: int, found: list[LogEvent]) -> int:
        """Examine events for one slice, all long or all short; return the index of the next event."""
        until, long = time.perf_counter() + log_evaluation.SLICE_SECONDS, self._is_long(run[begin])
        for at in range(begin, len(run)):
            if self._is_long(run[at]) != long:
                return at
            try:
                if self.pattern(run[at].message):
                    found.append(run[at])
            except Exception as exc:  # noqa: BLE001 (reported by `look`)
                self.errors.append(exc)
            if time.perf_counter() >= until:
                return at + 1
        return len(run)


def _from(request: Request) -> tuple[bool, int | None]:
    """Return the direction (True: backwards) and the position to start from."""
    if request.next_token is None:
        return request.start_from_head is False, None
    # "If you provide both nextToken and startFromHead, the direction of the nextToken is used."
    found = PAGE_TOKEN.fullmatch(request.next_token)
    if found is None:
        raise InvalidParameterException("The specified nextToken is invalid.")
    return found["way"] == "b", int(found["position"])


async def _streams(request: Request, call: Call) -> frozenset[bytes] | None:
    """Return the ids of the streams to search; None: all."""
    names, prefix = request.log_stream_names, request.log_stream_name_prefix
    if names is not None and prefix is not None:
        raise InvalidParameterException("logStreamNames and logStreamNamePrefix cannot both be given.")
    if names is not None:
        return frozenset([(await require_stream(call, name)).stream_id for name in names])
    if prefix is None:
        return None
    found = await reader_of(call).log_streams_after(log_group_of(call).group_id, "", -1, prefix=prefix)
    return frozenset(stream.stream_id for stream in found)


def _shown(event: LogEvent, names: dict[bytes, str]) -> shapes.FilteredLogEvent:
    return shapes.FilteredLogEvent(
        names[event.stream_id], event.timestamp, event.message, event.ingested_at, position_text(event.position)
    )


OPERATION = Operation(
    LOGS,
    "FilterLogEvents",
    Request,
    Response,
    handle,
    access=(
        OnLogGroup(identifier="log_group_identifier"),
        OnLogGroup(identifier="log_group_identifier", action="Unmask", when="unmask"),
    ),
    raises=(AccessDeniedException,),
)
