"""CreateLogGroup: create a group, optionally with a customer's key from the start."""

from __future__ import annotations

import secrets

from kmsd.cloudwatch_logs import group_tags, groups, key_association, shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import group_in, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.errors import (
    AccessDeniedException,
    InvalidParameterException,
    LimitExceededException,
    OperationAbortedException,
    ResourceAlreadyExistsException,
    TooManyTagsException,
)
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: CreateLogGroupRequest."""

    log_group_name: shapes.LogGroupName
    kms_key_id: shapes.KmsKeyId | None = None
    tags: shapes.Tags | None = None
    log_group_class: shapes.LogGroupClass | None = None
    deletion_protection_enabled: bool | None = None


async def prepare(request: Request, call: WriteCall) -> str | None:
    """Verify that the group can use the key, and return the key's ARN."""
    _check(request)
    if request.kms_key_id is None:
        return None
    account, name = call.caller.account, request.log_group_name
    arn = groups.group_arn(call.dependencies.arns, account, name)
    return await key_association.examined(call, name.encode(), arn, request.kms_key_id)


async def handle(request: Request, call: WriteCall) -> None:
    """Store the group."""
    account, name, tx = call.caller.account, request.log_group_name, transaction_of(call)
    if group_in(call.targets[0]) is not None:
        raise ResourceAlreadyExistsException("The specified log group already exists")
    most = call.dependencies.quotas.log_groups_per_account
    if await tx.count_log_groups(account) >= most:
        raise LimitExceededException(f"The account has {most} log groups, which is the limit.")
    if call.prepared is not None:
        await key_association.check_still(call, call.prepared)
    group = LogGroup(
        group_id=secrets.token_bytes(16),
        account=account,
        name=name,
        arn=groups.group_arn(call.dependencies.arns, account, name),
        created_at=call.now,
        log_class=request.log_group_class or "STANDARD",
        kms_key=call.prepared,
    )
    await tx.insert_account(account, call.now)
    await tx.insert_log_group(group)
    await tx.put_log_group_tags(group.group_id, request.tags or {})


def _check(request: Request) -> None:
    if request.log_group_name.startswith(groups.RESERVED):
        raise InvalidParameterException(f"Log groups starting with {groups.RESERVED} are reserved.")
    # CreateLogGroup: "Log group names can't start with the string aws/".
    if request.log_group_name.startswith("aws/"):
        raise InvalidParameterException("Log groups starting with aws/ are reserved for AWS.")
    if request.deletion_protection_enabled:
        raise InvalidParameterException("deletionProtectionEnabled is not supported.")
    if request.log_group_class in ("DELIVERY", "ESSENTIALS"):
        raise InvalidParameterException(f"logGroupClass {request.log_group_class} is not supported.")
    group_tags.check(request.tags or {})


OPERATION = Operation(
    LOGS,
    "CreateLogGroup",
    Request,
    None,
    handle,
    access=(
        OnLogGroup(must_exist=False),
        # CreateLogGroup: a request with tags needs "the logs:TagResource permission as well".
        OnLogGroup(must_exist=False, action="TagResource", when="tags"),
    ),
    raises=(
        AccessDeniedException,
        LimitExceededException,
        OperationAbortedException,
        ResourceAlreadyExistsException,
        TooManyTagsException,
    ),
    writes=True,
    creates=True,
    prepare=prepare,
)
