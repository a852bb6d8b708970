"""StartQuery: start a query over log groups in the background."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroups
from kmsd.cloudwatch_logs.call import group_in, reader_of, service_of, store_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.insights import results
from kmsd.cloudwatch_logs.insights.commands import MAX_ROWS
from kmsd.cloudwatch_logs.insights.planner import plan
from kmsd.cloudwatch_logs.insights.runner import QUERY_SECONDS, QueryRunner, QueryTask
from kmsd.cloudwatch_logs.insights.stored_query import RUNNING, MalformedQuery, StoredQuery
from kmsd.cloudwatch_logs.ports import FrameQuery
from kmsd.errors import (
    InvalidParameterException,
    LimitExceededException,
    MalformedQueryException,
)
from kmsd.operations.declaration import Call, Operation, WriteCall

MAX_GROUPS = 50
MAX_RUNNING = 30
"""Limit on an account's running queries."""
_MILLIS_FROM = 100_000_000_000
"""Seconds in the year 5138: larger timestamps must be milliseconds."""


class Request(shapes.LogShape, frozen=True):
    """botocore: StartQueryRequest."""

    start_time: shapes.Timestamp
    end_time: shapes.Timestamp
    query_string: shapes.QueryString
    query_language: shapes.QueryLanguage | None = None
    log_group_name: shapes.LogGroupName | None = None
    log_group_names: shapes.LogGroupNames | None = None
    log_group_identifiers: shapes.LogGroupIdentifiers | None = None
    limit: shapes.QueryLimit | None = None


class Response(shapes.LogShape, frozen=True):
    """botocore: StartQueryResponse."""

    query_id: shapes.QueryId


async def handle(request: Request, call: WriteCall) -> Response:
    """Store the query; it starts once that is durable."""
    if request.query_language not in (None, "CWLI"):
        raise InvalidParameterException(f"queryLanguage {request.query_language} is not supported.")
    wanted = _span(request)
    try:
        read = plan(request.query_string)
    except MalformedQuery as exc:
        raise MalformedQueryException(f"The query is malformed: {exc}.") from exc
    account, reader = call.caller.account, reader_of(call)
    if await reader.count_running_queries(account, call.now) >= MAX_RUNNING:
        raise LimitExceededException(f"{MAX_RUNNING} queries of the account are running, which is the limit.")
    groups = _groups(call)
    query_id = str(uuid4())
    query = StoredQuery(
        query_id=query_id,
        account=account,
        # Of several groups, name the reserved one: its results are for the principal alone (GetQueryResults).
        group_name=next((group.name for group in groups if group.reserved), groups[0].name),
        principal=call.caller.arn,
        created_at=call.now,
        # A little later than the runner's own time limit.
        deadline_at=call.now + timedelta(seconds=QUERY_SECONDS + 30),
        sealed_text=await results.seal_text(reader, call.token, query_id, request.query_string),
        status=RUNNING,
        statistics=shapes.QueryStatistics(),
    )
    await transaction_of(call).insert_log_query(query)
    task = QueryTask(query, read, groups, wanted, request.limit or MAX_ROWS)

    async def begin() -> None:
        dependencies, logs = call.dependencies, service_of(call)
        running = asyncio.create_task(QueryRunner(logs, store_of(call), dependencies.arns, logs.now).run(task))
        logs.tasks.add(running)
        running.add_done_callback(logs.tasks.discard)

    call.after_commit.append(begin)
    return Response(query_id=query_id)


def _groups(call: Call) -> list[LogGroup]:
    """Return the groups that were found and permitted, each once."""
    found = [group for target in call.targets if (group := group_in(target)) is not None]
    if len(found) > MAX_GROUPS:
        raise InvalidParameterException(f"A query can be asked of {MAX_GROUPS} log groups.")
    return list({group.group_id: group for group in found}.values())


def _span(request: Request) -> FrameQuery:
    """Return the time range, in milliseconds; both ends are included."""
    start, end = (
        time if time >= _MILLIS_FROM else time * 1000 + more
        for time, more in ((request.start_time, 0), (request.end_time, 999))
    )
    if start > end:
        raise InvalidParameterException("End time should not be before start time.")
    return FrameQuery(start, end + 1, descending=True)


OPERATION = Operation(
    LOGS,
    "StartQuery",
    Request,
    Response,
    handle,
    access=(OnLogGroups(),),
    raises=(LimitExceededException, MalformedQueryException),
    writes=True,
)
