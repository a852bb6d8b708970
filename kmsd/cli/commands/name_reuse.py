"""Warn when a new user or role reuses a name that grants or key policies already mention.

AWS binds grants and key policies to the unique id of a user or role, which is never reused. kmsd identifies principals
by ARN, so a recreated user or role inherits what was granted to the deleted one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime

from kmsd.authz import policy_document
from kmsd.cli.commands.check_policies import all_keys
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from kmsd.ports import Reader

MAX_LISTED = 10


async def warn_of_references(reader: Reader, arn: str, account: str, now: datetime) -> None:
    """Print a line on standard error for each grant to `arn` and each key whose policy names it, up to a bound."""
    found = [line async for line in _naming(reader, arn, account, now)]
    for line in found[:MAX_LISTED]:
        print(f"kmsd: note: {line}", file=sys.stderr)
    if len(found) > MAX_LISTED:
        print(f"kmsd: note: and {len(found) - MAX_LISTED} more", file=sys.stderr)


async def _naming(reader: Reader, arn: str, account: str, now: datetime) -> AsyncIterator[str]:
    accounts = {account, *(one.account for one in await reader.users())}
    known: dict[str, bool] = {}
    async for key in all_keys(reader, accounts, now):
        for grant in await reader.grants_to(key.key_id, [arn]):
            yield f"grant {grant.grant_id} on {key.arn} is for {arn} already"
        names = known.get(key.policy)
        if names is None:
            names = known[key.policy] = _names(key.policy, arn)
        if names:
            yield f"the policy of {key.arn} names {arn} already"


def _names(policy: str, arn: str) -> bool:
    try:
        statements = policy_document.parse(policy, kind=PolicyKind.KEY).statements
    except MalformedPolicyDocumentException:
        return False  # `kmsd check` reports it
    return any(one.principals is not None and arn in one.principals.entities for one in statements)
