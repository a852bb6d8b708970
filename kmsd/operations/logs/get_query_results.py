"""GetQueryResults: how a query stands, and what it has found."""

from __future__ import annotations

from kmsd.custody import log_results
from kmsd.custody.pages import Pager
from kmsd.domain import log_shapes as shapes
from kmsd.domain.log_group import RESERVED, ResultsKey
from kmsd.domain.log_query import COMPLETE
from kmsd.errors import AccessDeniedException, ResourceNotFoundException
from kmsd.operations.logs_queries import existing
from kmsd.operations.model import Call, OnLogGroup, Operation, Service

LONGEST_PAGE = 10_000


class Request(shapes.LogShape, frozen=True):
    """botocore: GetQueryResultsRequest."""

    query_id: shapes.QueryId
    next_token: shapes.ResultToken | None = None
    max_items: shapes.ResultItems | None = None


class Response(shapes.LogShape, frozen=True):
    """botocore: GetQueryResultsResponse."""

    query_language: shapes.QueryLanguage
    results: list[list[shapes.ResultField]]
    statistics: shapes.QueryStatistics
    status: shapes.QueryStatus
    encryption_key: shapes.KmsKeyId | None = None
    next_token: shapes.ResultToken | None = None


async def handle(request: Request, call: Call) -> Response:
    """Results of a query that is complete; of others there are none."""
    query = await existing(call, request.query_id)
    # AWS gives results to everybody who may call this, of any group; the audit trail is not for everybody.
    if query.group_name.startswith(RESERVED) and query.principal != call.caller.arn:
        raise AccessDeniedException(f"Results of a query on {query.group_name} are for the principal that started it.")
    status = query.status_at(call.now)
    if status != COMPLETE:
        return Response("CWLI", [], query.statistics, status)
    subject = log_results.subject_of(call.world.place, ResultsKey(query.account))
    stored = await call.logs.segments.get_result(query.query_id)
    rows = await log_results.open_rows(call.logs, call.books, subject, query.query_id, stored, now=call.now)
    limit = request.max_items or LONGEST_PAGE
    pager = Pager(await call.service_box(), f"GetQueryResults {query.query_id}", {}, limit)
    begin = int(await pager.start(request.next_token or None) or 0)
    page = await pager.cut(list(enumerate(rows[begin : begin + limit + 1], begin + 1)), lambda item: str(item[0]))
    shown = [[shapes.ResultField(name, value) for name, value in row] for _, row in page.items]
    return Response("CWLI", shown, query.statistics, status, query.kms_key, page.next_marker)


OPERATION = Operation(
    Service.LOGS,
    "GetQueryResults",
    Request,
    Response,
    handle,
    access=(OnLogGroup(member=None),),
    raises=(AccessDeniedException, ResourceNotFoundException),
)
