"""Checks of a new key policy in CreateKey and PutKeyPolicy."""

from __future__ import annotations

from typing import Any

from kmsd.authz import lockout
from kmsd.authz.new_policy import parse_new
from kmsd.authz.request import AuthorizationRequest
from kmsd.domain.policy import PolicyKind
from kmsd.errors import LimitExceededException, NotFoundException
from kmsd.operations.condition_values import circumstances_of, policies_of
from kmsd.operations.declaration import Call, Operation, Target

DEFAULT_NAME = "default"


def check_policy_name(name: str) -> None:
    """Check that the name is `default` (the reference's "Default" is an error). Raises NotFoundException."""
    if name != DEFAULT_NAME:
        raise NotFoundException(f"No such policy exists: {name}")


async def check_new_policy(
    operation: Operation[Any, Any], policy: str, request: Any, call: Call, target: Target
) -> None:
    """Check size and syntax, and (unless bypassed) that the caller does not lock themselves out.

    `target` is the key, which does not exist yet for CreateKey. Raises LimitExceededException for more than 32 KiB by
    default (the shape admits more), and MalformedPolicyDocumentException.
    """
    if len(policy.encode()) > call.dependencies.quotas.policy_bytes:
        raise LimitExceededException(f"The key policy is longer than {call.dependencies.quotas.policy_bytes} bytes.")
    parse_new(policy, kind=PolicyKind.KEY)
    caller = call.caller
    auth_request = AuthorizationRequest(
        caller=caller,
        action="kms:PutKeyPolicy",
        resource=target.arn,
        resource_account=caller.account if target.key is None else target.key.account,
        resource_policy=policy,
        circumstances=await circumstances_of(operation, target, request, call, (policy, *policies_of(caller))),
    )
    lockout.check(auth_request, policy, bypass=request.bypass_policy_lockout_safety_check)
