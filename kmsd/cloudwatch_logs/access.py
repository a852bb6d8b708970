"""From what a Logs request names to the log group itself."""

from __future__ import annotations

from typing import Any

import msgspec

from kmsd.cloudwatch_logs import groups
from kmsd.errors import InvalidParameterException
from kmsd.operations.declaration import Call, OnLogGroup, OnLogsKey, Target


async def find_log_group(access: OnLogGroup, request: msgspec.Struct, call: Call) -> Target | None:
    """The group as a target, also one that does not exist: a caller who may not ask is not told.

    Raises InvalidParameterException where none or two are named.
    """
    if access.when is not None and not getattr(request, access.when):
        return None
    account, place = call.caller.account, call.world.place
    if access.member is None:
        return Target(arn=groups.stream_arn(groups.group_arn(place, account, ""), ""))
    name = getattr(request, access.member)
    if access.identifier is not None:
        name = one_of(name, getattr(request, access.identifier), call)
    elif access.tagging:
        name = groups.parse_identifier(name, place, account)
    arn = groups.group_arn(place, account, name)
    group = await call.books.log_group(account, name)
    if not access.tagging:
        stream = "" if access.stream is None else getattr(request, access.stream)
        arn = groups.stream_arn(arn, stream)
    return Target(arn=arn, log_group=group)


def one_of(name: str | None, identifier: str | None, call: Call) -> str:
    """The group's name, which must be given in just one of two ways."""
    if (name is None) == (identifier is None):
        raise InvalidParameterException("Either logGroupName or logGroupIdentifier must be given, and not both.")
    return name or groups.parse_identifier(identifier or "", call.world.place, call.caller.account)


async def find_log_groups(request: Any, call: Call) -> list[Target]:
    """Every group that StartQuery names. Raises InvalidParameterException unless it does so in just one way."""
    account, place = call.caller.account, call.world.place
    single = request.log_group_name
    ways = ([single] if single is not None else None, request.log_group_names)
    identifiers = request.log_group_identifiers
    given = [names for names in (*ways, identifiers) if names]
    if len(given) != 1:
        raise InvalidParameterException(
            "Just one of logGroupName, logGroupNames and logGroupIdentifiers must be given, and not be empty."
        )
    targets = []
    for text in given[0]:
        name = groups.parse_identifier(text, place, account) if identifiers else text
        arn = groups.stream_arn(groups.group_arn(place, account, name), "")
        targets.append(Target(arn=arn, log_group=await call.books.log_group(account, name)))
    return targets


async def find_logs_key(access: OnLogsKey, request: Any, call: Call) -> Target:
    """The group, or all query results of the caller's account, whose key is to be changed."""
    # AssociateKmsKey: "you specify either the logGroupName parameter or the resourceIdentifier parameter. You can't
    # specify both".
    name, identifier = request.log_group_name, getattr(request, access.identifier)
    account, place = call.caller.account, call.world.place
    if (name is None) == (identifier is None):
        raise InvalidParameterException("Either logGroupName or resourceIdentifier must be given, and not both.")
    if identifier is not None:
        if identifier == groups.results_arn(place, account):
            return Target(arn=identifier)
        if not identifier.startswith("arn:"):
            raise InvalidParameterException("resourceIdentifier must be the ARN of a log group or of query results.")
        name = groups.parse_identifier(identifier, place, account)
    group = await call.books.log_group(account, name)
    return Target(arn=groups.stream_arn(groups.group_arn(place, account, name), ""), log_group=group)
