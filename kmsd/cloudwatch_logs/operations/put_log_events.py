"""PutLogEvents: store a batch of events, encrypted, and durable before the response."""

from __future__ import annotations

from functools import partial

from kmsd.cloudwatch_logs import events, frame_codec, shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of, service_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import millis
from kmsd.cloudwatch_logs.streams import require_stream
from kmsd.errors import AccessDeniedException
from kmsd.operations.declaration import Call, Operation


class Request(shapes.LogShape, frozen=True):
    """botocore: PutLogEventsRequest."""

    log_group_name: shapes.LogGroupName
    log_stream_name: shapes.LogStreamName
    log_events: shapes.InputLogEvents
    sequence_token: shapes.SequenceToken | None = None
    entity: shapes.Entity | None = None


class Response(shapes.LogShape, frozen=True):
    """botocore: PutLogEventsResponse."""

    next_sequence_token: shapes.SequenceToken
    rejected_log_events_info: shapes.RejectedLogEventsInfo | None = None
    rejected_entity_info: shapes.RejectedEntityInfo | None = None


async def handle(request: Request, call: Call) -> Response:
    """Encrypt the accepted events; they are appended once the call is recorded."""
    group, now = log_group_of(call), millis(call.now)
    stream = await require_stream(call, request.log_stream_name)
    batch = events.check(request.log_events, now, group.oldest(call.now))
    rejected = batch.rejected
    if batch.times:
        logs = service_of(call)
        sealed = await frame_codec.seal(logs, reader_of(call), group, stream, batch, now=call.now)
        append = partial(logs.segments.append, group.group_id, sealed.frame, sealed.content, sealed.data_key)
        call.after_commit.append(partial(append, expires_at=group.expires_at(sealed.frame.last_at)))
        # Free the decoded events now. They are encrypted or rejected, and the audit record does not contain them. The
        # next request can then reuse their memory while it is in the processor's caches.
    request.log_events.clear()
    del batch
    return Response(
        # "The sequence token is now ignored in PutLogEvents actions": any token will do, and any is accepted.
        next_sequence_token=events.position_text(now),
        rejected_log_events_info=rejected,
        # kmsd does not correlate telemetry. The response says so in the form that the API has; the events are stored.
        rejected_entity_info=None if request.entity is None else shapes.RejectedEntityInfo("UnsupportedLogGroupType"),
    )


OPERATION = Operation(
    LOGS,
    "PutLogEvents",
    Request,
    Response,
    handle,
    access=(OnLogGroup(stream="log_stream_name"),),
    raises=(AccessDeniedException,),
    appends=True,
)
