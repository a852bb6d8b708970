"""StopQuery: cancel a running query, which then leaves no results."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.insights.stored_query import CANCELLED, RUNNING
from kmsd.cloudwatch_logs.queries import require_query
from kmsd.errors import InvalidParameterException, ResourceNotFoundException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: StopQueryRequest."""

    query_id: shapes.QueryId


class Response(shapes.LogShape, frozen=True):
    """botocore: StopQueryResponse."""

    success: bool


async def handle(request: Request, call: WriteCall) -> Response:
    """Store the cancellation; the query's runner notices it within moments."""
    query = await require_query(call, request.query_id)
    ended = replace(query, status=CANCELLED, ended_at=call.now)
    if query.status_at(call.now) != RUNNING or not await transaction_of(call).complete_log_query(ended):
        raise InvalidParameterException("Provided query with given ID is not in a running state.")
    return Response(success=True)


OPERATION = Operation(
    LOGS,
    "StopQuery",
    Request,
    Response,
    handle,
    access=(OnLogGroup(member=None),),
    raises=(ResourceNotFoundException,),
    writes=True,
)
