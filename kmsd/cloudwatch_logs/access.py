"""Access checks of the CloudWatch Logs operations: how each finds its log groups, and the ARN to authorise on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from kmsd.cloudwatch_logs import groups
from kmsd.cloudwatch_logs.call import reader_of
from kmsd.cloudwatch_logs.groups import NO_GROUP, LogGroup
from kmsd.errors import InvalidParameterException, ResourceNotFoundException, ServiceError
from kmsd.operations.declaration import Access, Call, Operation, Target


class OnLogGroup(Access, frozen=True):
    """A log group of the caller's account, authorised by identity policies on the ARN that AWS uses for the action."""

    member: str | None = "log_group_name"
    """Request member with the group's name; None: the action is on all groups of the account."""
    identifier: str | None = None
    """Request member that may name the group instead, by name or ARN; exactly one of the two must be given."""
    stream: str | None = None
    """Request member with the stream that the action is on; None: the action is on the group."""
    action: str | None = None
    """The action to authorise; None: the operation's name."""
    when: str | None = None
    """Request member without which this check is skipped."""
    must_exist: bool = True
    tagging: bool = False
    """True for actions on tags: AWS authorises them on the group's ARN without the `:log-stream:` part."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Return ResourceNotFoundException if the group must exist."""
        return (ResourceNotFoundException,) if self.must_exist else ()

    def words(self) -> str:
        """Describe the group by its request member."""
        if self.member is None:
            return "all log groups"
        again = f"the same for logs:{self.action}, if asked"
        return f"log group `{self.member}`" if self.action is None else again

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return the group as a target, even if it does not exist: an unauthorised caller must not learn that.

        Raises InvalidParameterException if neither or both of name and identifier are given.
        """
        if self.when is not None and not getattr(request, self.when):
            return ()
        account, place = call.caller.account, call.dependencies.arns
        if self.member is None:
            return (Target(arn=groups.stream_arn(groups.group_arn(place, account, ""), "")),)
        name = getattr(request, self.member)
        if self.identifier is not None:
            name = one_of(name, getattr(request, self.identifier), call)
        elif self.tagging:
            name = groups.parse_identifier(name, place, account)
        arn = groups.group_arn(place, account, name)
        if not self.tagging:
            arn = groups.stream_arn(arn, "" if self.stream is None else getattr(request, self.stream))
        return (await _target(arn, account, name, call),)

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Raises ResourceNotFoundException, or InvalidParameterException for a change to a reserved group."""
        if target.resource is None and self.must_exist and self.member is not None:
            raise ResourceNotFoundException(NO_GROUP)
        _refuse_changes(operation, target)


class OnLogGroups(Access, frozen=True):
    """All log groups that StartQuery names, in one of three ways; each is authorised separately."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Return ResourceNotFoundException: every group must exist."""
        return (ResourceNotFoundException,)

    def words(self) -> str:
        """Describe the ways to name the groups."""
        return "log groups by name or identifier"

    async def find(self, request: Any, call: Call) -> Sequence[Target]:
        """Return one target per group. Raises InvalidParameterException unless exactly one way to name them is used."""
        account, place = call.caller.account, call.dependencies.arns
        single, identifiers = request.log_group_name, request.log_group_identifiers
        ways = ([single] if single is not None else None, request.log_group_names, identifiers)
        given = [names for names in ways if names]
        if len(given) != 1:
            raise InvalidParameterException(
                "Just one of logGroupName, logGroupNames and logGroupIdentifiers must be given, and not be empty."
            )
        names = [groups.parse_identifier(text, place, account) if identifiers else text for text in given[0]]
        arns = [groups.stream_arn(groups.group_arn(place, account, name), "") for name in names]
        return [await _target(arn, account, name, call) for arn, name in zip(arns, names, strict=True)]

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Raises ResourceNotFoundException for a group that does not exist."""
        if target.resource is None:
            raise ResourceNotFoundException(NO_GROUP)


class OnLogsKey(Access, frozen=True):
    """Target of AssociateKmsKey: a log group by `log_group_name`, or a group or all query results by `identifier`."""

    identifier: str

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Return ResourceNotFoundException: a named group must exist."""
        return (ResourceNotFoundException,)

    def words(self) -> str:
        """Describe the ways to name the target."""
        return "log group `log_group_name` or what `resource_identifier` names"

    async def find(self, request: Any, call: Call) -> Sequence[Target]:
        """Return the group, or the query results of the caller's account, whose key will be changed."""
        # AssociateKmsKey: "you specify either the logGroupName parameter or the resourceIdentifier parameter. You can't
        # specify both".
        name, identifier = request.log_group_name, getattr(request, self.identifier)
        account, place = call.caller.account, call.dependencies.arns
        if (name is None) == (identifier is None):
            raise InvalidParameterException("Either logGroupName or resourceIdentifier must be given, and not both.")
        if identifier is not None:
            if identifier == groups.results_arn(place, account):
                return (Target(arn=identifier),)
            if not identifier.startswith("arn:"):
                raise InvalidParameterException(
                    "resourceIdentifier must be the ARN of a log group or of query results."
                )
            name = groups.parse_identifier(identifier, place, account)
        arn = groups.stream_arn(groups.group_arn(place, account, name), "")
        return (await _target(arn, account, name, call),)

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Raises the same errors as `OnLogGroup.check`."""
        if target.resource is None and ":log-group:" in target.arn:
            raise ResourceNotFoundException(NO_GROUP)
        _refuse_changes(operation, target)


async def _target(arn: str, account: str, name: str, call: Call) -> Target:
    group = await reader_of(call).log_group(account, name)
    return Target(arn=arn, resource=group, resource_tags=None if group is None else partial(_tags, group, call))


async def _tags(group: LogGroup, call: Call) -> Mapping[str, str]:
    return await reader_of(call).log_group_tags(group.group_id)


def _refuse_changes(operation: Operation[Any, Any], target: Target) -> None:
    """Refuse writes to a reserved group: clients may only read it, and not change events, streams, tags or settings."""
    group = target.resource
    if isinstance(group, LogGroup) and group.reserved and (operation.writes or operation.appends):
        raise InvalidParameterException(
            f"The log group {group.name} is kept by the service: it can be read, {operation.name} is not allowed on it."
        )


def one_of(name: str | None, identifier: str | None, call: Call) -> str:
    """Return the group's name. Raises InvalidParameterException unless exactly one of the two is given."""
    if (name is None) == (identifier is None):
        raise InvalidParameterException("Either logGroupName or logGroupIdentifier must be given, and not both.")
    return name or groups.parse_identifier(identifier or "", call.dependencies.arns, call.caller.account)
