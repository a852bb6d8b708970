"""AWS's messages for refusals (IAM User Guide, Troubleshoot access denied error messages)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from kmsd.authz.request import Denied

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest


class PolicyType(Enum):
    """A type of policy, as messages name it: for a missing Allow, and for an explicit Deny."""

    RESOURCE = ("resource-based policy", "a resource-based policy")
    TRUST = ("role trust policy", "the role trust policy")
    IDENTITY = ("identity-based policy", "an identity-based policy")
    SESSION = ("session policy", "a session policy")


def not_allowed(request: AuthorizationRequest, policy_type: PolicyType, reason: str) -> Denied:
    """Return the refusal of a request that no policy of `policy_type` allows."""
    return Denied(reason, f"{_opening(request)} because no {policy_type.value[0]} allows the {request.action} action")


def denied(request: AuthorizationRequest, policy_type: PolicyType, reason: str) -> Denied:
    """Return the refusal of a request by a Deny statement in a policy of `policy_type`."""
    return Denied(reason, f"{_opening(request)} with an explicit deny in {policy_type.value[1]}")


def _opening(request: AuthorizationRequest) -> str:
    return f"User: {request.caller.arn} is not authorized to perform: {request.action} on resource: {request.resource}"
