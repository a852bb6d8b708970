"""What CreateKey and PutKeyPolicy ask of a new key policy."""

from __future__ import annotations

import msgspec

from kmsd.authz import lockout
from kmsd.authz.policy_document import parse
from kmsd.authz.query import Query
from kmsd.domain.policy import PolicyKind
from kmsd.errors import LimitExceededException, NotFoundException
from kmsd.operations.conditions import Conditions
from kmsd.operations.model import Call, OnAccount

DEFAULT_NAME = "default"


def check_policy_name(name: str) -> None:
    """Raises NotFoundException for any name but `default` (the reference's "Default" is an error; spec/README.md)."""
    if name != DEFAULT_NAME:
        raise NotFoundException(f"No such policy exists: {name}")


def check_new_policy(policy: str, request: msgspec.Struct, call: Call, *, arn: str, account: str, bypass: bool) -> None:
    """Size, language, and that the caller does not lock himself out (unless he says that he means to).

    Raises LimitExceededException for more than 32 KiB (spec/README.md: the shape admits more than the limit) and
    MalformedPolicyDocumentException.
    """
    if len(policy.encode()) > call.world.limits.policy_bytes:
        raise LimitExceededException(f"The key policy is longer than {call.world.limits.policy_bytes} bytes.")
    parse(policy, kind=PolicyKind.KEY)
    query = Query(
        caller=call.caller,
        action="kms:PutKeyPolicy",
        resource=arn,
        resource_account=account,
        resource_policy=policy,
        conditions=Conditions(call, request, OnAccount(), None, ""),
    )
    lockout.check(query, policy, bypass=bypass)
