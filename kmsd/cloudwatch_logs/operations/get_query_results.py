"""GetQueryResults: return the status of a query, and its results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import reader_of, service_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import RESERVED, ResultsKey
from kmsd.cloudwatch_logs.insights import results as log_results
from kmsd.cloudwatch_logs.insights.results import Chunk
from kmsd.cloudwatch_logs.insights.stored_query import COMPLETE, StoredQuery
from kmsd.cloudwatch_logs.queries import require_query
from kmsd.cloudwatch_logs.work_budget import MAX_QUERY_BYTES, Budget, TooLarge
from kmsd.custody.pagination import Pager
from kmsd.errors import AccessDeniedException, ResourceNotFoundException, ServiceUnavailableException
from kmsd.operations.declaration import Call, Operation

MAX_PAGE = 10_000
_encode = msgspec.json.Encoder().encode


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
    """Return a page of results. Only a complete query has any."""
    query = await require_query(call, request.query_id)
    # AWS gives the results of any group to every caller who may use this operation. The audit trail is more restricted.
    if query.group_name.startswith(RESERVED) and query.principal != call.caller.arn:
        raise AccessDeniedException(f"Results of a query on {query.group_name} are for the principal that started it.")
    status = query.status_at(call.now)
    if status != COMPLETE:
        return Response("CWLI", [], query.statistics, status)
    budget = Budget(MAX_QUERY_BYTES, service_of(call).memory)
    try:
        return await _page(request, call, query, budget)
    except TooLarge as exc:
        raise ServiceUnavailableException(
            "The service cannot hold more results at this time.", detail=str(exc)
        ) from exc
    finally:
        budget.close()


async def _page(request: Request, call: Call, query: StoredQuery, budget: Budget) -> Response:
    subject = log_results.subject_of(call.dependencies.arns, ResultsKey(query.account))
    stored = await service_of(call).segments.get_result(query.query_id)
    budget.reserve(len(stored))
    chunks = await log_results.open_rows(
        service_of(call), reader_of(call), subject, query.query_id, stored, now=call.now
    )
    budget.reserve(sum(len(chunk.rows) for chunk in chunks))
    limit = request.max_items or MAX_PAGE
    pager = Pager(await call.service_sealer(), f"GetQueryResults {query.query_id}", {}, limit)
    begin = int(await pager.start(request.next_token or None) or 0)
    rows = await _shown(chunks, begin, begin + limit + 1, budget)
    page = await pager.cut(list(enumerate(rows, begin + 1)), lambda item: str(item[0]))
    # The rows are encoded already: the JSON text holds what the declared type describes.
    shown = cast("list[list[shapes.ResultField]]", [row for _, row in page.items])
    return Response("CWLI", shown, query.statistics, query.status, query.kms_key, page.next_marker)


async def _shown(chunks: Sequence[Chunk], begin: int, end: int, budget: Budget) -> list[msgspec.Raw]:
    """Encode rows `begin` to `end`, chunk by chunk, yielding to other work in between."""
    found: list[msgspec.Raw] = []
    first = 0
    for chunk in chunks:
        if first < end and first + chunk.number > begin:
            for row in chunk.decoded()[max(begin - first, 0) : end - first]:
                shown = _encode([shapes.ResultField(name, value) for name, value in row])
                budget.reserve(len(shown))
                found.append(msgspec.Raw(shown))
            await asyncio.sleep(0)
        first += chunk.number
    return found


OPERATION = Operation(
    LOGS,
    "GetQueryResults",
    Request,
    Response,
    handle,
    access=(OnLogGroup(member=None),),
    raises=(AccessDeniedException, ResourceNotFoundException),
)
