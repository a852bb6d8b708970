"""Typed access to the parts of a call that the CloudWatch Logs operations use."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.service import LogsService

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.ports import LogReader, LogStore, LogTransaction
    from kmsd.operations.declaration import Call, Dependencies, Target, WriteCall


def reader_of(call: Call) -> LogReader:
    """Return the call's reader. The daemon is always composed with a store that keeps log groups (`LogStore`)."""
    return cast("LogReader", call.reader)


def transaction_of(call: WriteCall) -> LogTransaction:
    """Return the transaction of a writing operation."""
    return cast("LogTransaction", call.transaction)


def store_of(call: Call) -> LogStore:
    """Return the store, for work that continues after the call."""
    return cast("LogStore", call.dependencies.store)


def log_group_of(call: Call) -> LogGroup:
    """Return the first target's log group. Raises LookupError if the operation has none."""
    group = group_in(call.targets[0])
    if group is None:
        raise LookupError("this operation has no log group there")
    return group


def group_in(target: Target) -> LogGroup | None:
    """Return the log group of a target; None if no group has that name."""
    return target.resource if isinstance(target.resource, LogGroup) else None


def service_of(call: Call) -> LogsService:
    """Return the logs service of this process. Raises LookupError in a process without it."""
    return service_in(call.dependencies)


def service_in(dependencies: Dependencies) -> LogsService:
    """Return the logs service of this process. Raises LookupError in a process without it."""
    return cast("LogsService", dependencies.services[LogsService])
