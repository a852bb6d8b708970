"""Who is made under a name may do what was allowed to that name: the operator is told at that moment.

AWS binds grants and key policies to the unique id of a user or role, which ends with it. Here they name an ARN: whoever
gets the name of somebody who was deleted gets what was left to him.
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
    """One line on standard error for each grant, and each key whose policy names `arn`, up to a bound."""
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
        return False  # `kmsd check` tells of it
    return any(one.principals is not None and arn in one.principals.entities for one in statements)
