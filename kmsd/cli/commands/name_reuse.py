"""Warn when a new user or role reuses a name that grants or key policies already mention.

AWS binds grants and key policies to the unique id of a user or role, which is never reused. kmsd identifies principals
by ARN, so a recreated user or role inherits what was granted to the deleted one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime

from kmsd.authz import policy_document
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from kmsd.ports import Reader

MAX_LISTED = 10
_PAGE = 10_000
"""Keys whose policies are read together."""


async def warn_of_references(reader: Reader, arn: str, now: datetime) -> None:
    """Print a line on standard error for each grant to `arn` and each key policy that names it, up to a bound."""
    listed = 0
    async for line in _naming(reader, arn, now):
        if listed == MAX_LISTED:
            print("kmsd: note: and more", file=sys.stderr)
            break
        print(f"kmsd: note: {line}", file=sys.stderr)
        listed += 1


async def _naming(reader: Reader, arn: str, now: datetime) -> AsyncIterator[str]:
    for grant in await reader.grants_for(arn, MAX_LISTED + 1, now):
        key = await reader.key(grant.key_id)
        yield f"grant {grant.grant_id} on {grant.key_id if key is None else key.arn} is for {arn} already"
    last, found = await reader.policies_after("", _PAGE, now)
    while last:
        for one in found:
            if _names(one.policy, arn):
                more = f" and {one.keys - 1} more with it" if one.keys > 1 else ""
                yield f"the policy of {one.first_arn}{more} names {arn} already"
        last, found = await reader.policies_after(last, _PAGE, now)


def _names(policy: str, arn: str) -> bool:
    try:
        statements = policy_document.parse(policy, kind=PolicyKind.KEY).statements
    except MalformedPolicyDocumentException:
        return False  # `kmsd check` reports it
    return any(one.principals is not None and arn in one.principals.entities for one in statements)
