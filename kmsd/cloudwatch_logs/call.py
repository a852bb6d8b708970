"""A call as the log service sees it: its store, its log group, and what the service works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.service import LogsService

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.ports import LogReader, LogStore, LogTransaction
    from kmsd.operations.declaration import Call, Dependencies, Target


def reader_of(call: Call) -> LogReader:
    """What to read. The daemon is composed with a store that keeps log groups (`LogStore`)."""
    return cast("LogReader", call.reader)


def transaction_of(call: Call) -> LogTransaction:
    """The transaction of a writing operation."""
    return cast("LogTransaction", call.transaction)


def store_of(call: Call) -> LogStore:
    """The store, for what goes on after the call."""
    return cast("LogStore", call.dependencies.store)


def log_group_of(call: Call) -> LogGroup:
    """The first target's log group. Raises LookupError if the operation has none."""
    group = group_in(call.targets[0])
    if group is None:
        raise LookupError("this operation has no log group there")
    return group


def group_in(target: Target) -> LogGroup | None:
    """The log group that was found; None if there is none of that name."""
    return target.resource if isinstance(target.resource, LogGroup) else None


def service_of(call: Call) -> LogsService:
    """What the service works with. Raises LookupError in a process without it."""
    return service_in(call.dependencies)


def service_in(dependencies: Dependencies) -> LogsService:
    """What the service works with in this process. Raises LookupError without it."""
    return cast("LogsService", dependencies.services[LogsService])
