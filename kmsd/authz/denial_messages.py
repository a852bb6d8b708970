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


def not_allowed(query: AuthorizationRequest, layer: PolicyType, reason: str) -> Denied:
    """Refused because nothing in `layer` allows it."""
    return Denied(reason, f"{_opening(query)} because no {layer.value[0]} allows the {query.action} action")


def denied(query: AuthorizationRequest, layer: PolicyType, reason: str) -> Denied:
    """Refused by a Deny statement in `layer`."""
    return Denied(reason, f"{_opening(query)} with an explicit deny in {layer.value[1]}")


def _opening(query: AuthorizationRequest) -> str:
    return f"User: {query.caller.arn} is not authorized to perform: {query.action} on resource: {query.resource}"
