"""DescribeQueries: list the account's recent queries, newest first."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import reader_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import millis
from kmsd.cloudwatch_logs.insights import results
from kmsd.cloudwatch_logs.insights.stored_query import RUNNING, TIMEOUT, StoredQuery
from kmsd.custody.pagination import Pager
from kmsd.operations.declaration import Call, Operation

MAX_PAGE = 1000


class Request(shapes.LogShape, frozen=True):
    """botocore: DescribeQueriesRequest."""

    log_group_name: shapes.LogGroupName | None = None
    status: shapes.QueryStatus | None = None
    max_results: shapes.QueriesLimit = MAX_PAGE
    next_token: shapes.Token | None = None
    query_language: shapes.QueryLanguage | None = None


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: DescribeQueriesResponse."""

    queries: list[shapes.QueryInfo]
    next_token: shapes.Token | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page of queries."""
    if request.query_language not in (None, "CWLI"):
        return Response([])
    account = call.caller.account
    filters = {"group": request.log_group_name or "", "status": request.status or ""}
    pager = Pager(await call.service_sealer(), f"DescribeQueries {account}", filters, request.max_results)
    after = await pager.start(request.next_token)
    # A query that lost its process is still stored as running.
    stored_as = RUNNING if request.status == TIMEOUT else request.status
    found = list(
        await reader_of(call).log_queries_before(
            account, after, request.max_results + 1, group=request.log_group_name, status=stored_as
        )
    )
    page = await pager.cut(found, _position)
    wanted = [query for query in page.items if request.status in (None, query.status_at(call.now))]
    return Response([await _entry(query, call) for query in wanted], page.next_marker)


def _position(query: StoredQuery) -> str:
    return f"{int(query.created_at.timestamp() * 1_000_000)} {query.query_id}"


async def _entry(query: StoredQuery, call: Call) -> shapes.QueryInfo:
    ended = query.ended_at or call.now
    return shapes.QueryInfo(
        query_id=query.query_id,
        query_language="CWLI",
        query_string=await results.open_text(reader_of(call), call.token, query.query_id, query.sealed_text),
        status=query.status_at(call.now),
        create_time=millis(query.created_at),
        log_group_name=query.group_name,
        query_duration=millis(ended) - millis(query.created_at),
        bytes_scanned=query.statistics.bytes_scanned,
        user_identity=query.principal,
    )


OPERATION = Operation(LOGS, "DescribeQueries", Request, Response, handle, access=(OnLogGroup(member=None),))
