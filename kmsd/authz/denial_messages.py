"""AWS's sentences for refusals (IAM User Guide, Troubleshoot access denied error messages)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from kmsd.authz.request import Denied

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest


class PolicyType(Enum):
    """A sort of policy, as the sentences name it: where it lacks an Allow, and where it has a Deny."""

    RESOURCE = ("resource-based policy", "a resource-based policy")
    TRUST = ("role trust policy", "the role trust policy")
    IDENTITY = ("identity-based policy", "an identity-based policy")
    SESSION = ("session policy", "a session policy")


def not_allowed(request: AuthorizationRequest, layer: PolicyType, reason: str) -> Denied:
    """Refused because nothing in `layer` allows it."""
    return Denied(reason, f"{_opening(request)} because no {layer.value[0]} allows the {request.action} action")


def denied(request: AuthorizationRequest, layer: PolicyType, reason: str) -> Denied:
    """Refused by a Deny statement in `layer`."""
    return Denied(reason, f"{_opening(request)} with an explicit deny in {layer.value[1]}")


def _opening(request: AuthorizationRequest) -> str:
    return f"User: {request.caller.arn} is not authorized to perform: {request.action} on resource: {request.resource}"
