"""DescribeLogGroups: list groups by name, in pages."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import reader_of, service_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import LogGroup, millis, parse_identifier
from kmsd.custody.pagination import Pager
from kmsd.errors import InvalidParameterException, ResourceNotFoundException
from kmsd.operations.declaration import Call, Operation

MAX_PAGE = 50


class Request(shapes.LogShape, frozen=True):
    """botocore: DescribeLogGroupsRequest."""

    account_identifiers: shapes.AccountIds | None = None
    log_group_name_prefix: shapes.LogGroupName | None = None
    log_group_name_pattern: shapes.LogGroupNamePattern | None = None
    next_token: shapes.Token | None = None
    limit: shapes.DescribeLimit = MAX_PAGE
    include_linked_accounts: bool | None = None
    log_group_class: shapes.LogGroupClass | None = None
    log_group_identifiers: shapes.FiftyLogGroupIdentifiers | None = None


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: DescribeLogGroupsResponse."""

    log_groups: list[shapes.LogGroupEntry]
    next_token: shapes.Token | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page. Groups of other classes are filtered out of it, so it may be shorter than the limit."""
    _check(request, call)
    if request.log_group_identifiers is not None:
        found = await _named(request.log_group_identifiers, call)
        return Response([await _entry(group, call) for group in found])
    account = call.caller.account
    prefix, containing = request.log_group_name_prefix or "", request.log_group_name_pattern or ""
    filters = {"prefix": prefix, "containing": containing, "class": request.log_group_class or ""}
    pager = Pager(await call.service_sealer(), f"DescribeLogGroups {account}", filters, request.limit)
    after = await pager.start(request.next_token)
    groups = await reader_of(call).log_groups_after(
        account, after, request.limit + 1, prefix=prefix, containing=containing
    )
    page = await pager.cut(groups, lambda group: group.name)
    wanted = [group for group in page.items if request.log_group_class in (None, group.log_class)]
    return Response([await _entry(group, call) for group in wanted], page.next_marker)


def _check(request: Request, call: Call) -> None:
    if request.log_group_name_prefix is not None and request.log_group_name_pattern is not None:
        raise InvalidParameterException(
            "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters."
        )
    # There are no linked accounts: including them changes nothing, and requests for others' groups are refused by name.
    if set(request.account_identifiers or ()) - {call.caller.account}:
        raise InvalidParameterException("accountIdentifiers of other accounts are not supported.")


async def _named(identifiers: list[str], call: Call) -> list[LogGroup]:
    found = []
    for identifier in identifiers:
        try:
            name = parse_identifier(identifier, call.dependencies.arns, call.caller.account)
        except ResourceNotFoundException:
            continue
        group = await reader_of(call).log_group(call.caller.account, name)
        if group is not None:
            found.append(group)
    return found


async def _entry(group: LogGroup, call: Call) -> shapes.LogGroupEntry:
    summaries = await service_of(call).segments.summaries(group.group_id)
    return shapes.LogGroupEntry(
        log_group_name=group.name,
        creation_time=millis(group.created_at),
        metric_filter_count=0,
        arn=f"{group.arn}:*",
        stored_bytes=sum(summary.size for summary in summaries.values()),
        log_group_class=group.log_class,
        log_group_arn=group.arn,
        retention_in_days=group.retention_days,
        kms_key_id=group.kms_key,
    )


OPERATION = Operation(LOGS, "DescribeLogGroups", Request, Response, handle, access=(OnLogGroup(member=None),))
