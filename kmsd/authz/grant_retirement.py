"""Authorization of RetireGrant: the grant itself decides, not the key policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.authz import denial_messages, evaluate, grants
from kmsd.authz.denial_messages import PolicyType
from kmsd.authz.request import Allowed
from kmsd.authz.request_context import RequestContext
from kmsd.domain.principal import PrincipalType

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest, Decision
    from kmsd.domain.grant import Grant
    from kmsd.domain.principal import Caller


def may_retire(request: AuthorizationRequest, grant: Grant) -> Decision:
    """Return the decision on retiring `grant`. The action is `kms:RetireGrant`, the resource the key's ARN.

    - A Deny in a policy refuses it: "To deny permission to retire a grant, you can use a Deny action with the
      kms:RetireGrant permission."
    - "Principals specified in the grant can retire a grant without the kms:RetireGrant permission": the retiring
      principal, and the grantee if RetireGrant is among the grant's operations.
    - The account that created the grant, and an account that is the retiring principal, may retire it. This means the
      root user, and principals with kms:RetireGrant in an identity policy.
    - "The kms:RetireGrant permission is not effective in a key policy."
    (KMS Developer Guide, Retiring and revoking grants.) Session policies limit sessions as elsewhere.
    """
    partial = evaluate.partially_evaluate(request)
    request_context = RequestContext(request)
    if (denied := evaluate.explicit_denial(partial, request, request_context)) is not None:
        return denied
    caller = request.caller
    name = _named(grant, caller)
    if not grants.is_on(grant, request.resource) or (name is None and not _has_account(grant, caller)):
        return denial_messages.not_allowed(
            request, PolicyType.RESOURCE, f"grant:{grant.grant_id} does not name the caller"
        )
    by = partial.identity.by(request.resource, request_context) if name is None else f"grant:{grant.grant_id}"
    if by is None:
        return denial_messages.not_allowed(request, PolicyType.IDENTITY, "no identity-policy allows")
    bound = partial.session
    if (
        bound is not None
        and not _is_session_itself(caller, name, request)
        and bound.by(request.resource, request_context) is None
    ):
        return denial_messages.not_allowed(request, PolicyType.SESSION, f"{by} allows, no session-policy does")
    return Allowed(by, (grant.grant_id,))


def _named(grant: Grant, caller: Caller) -> str | None:
    """Return the caller's name in the grant that permits retiring it; None if there is none."""
    for name in caller.grantee_names:
        if name == grant.retiring_principal:
            return name
        if name == grant.grantee_principal and "RetireGrant" in grant.operations:
            return name
    return None


def _is_session_itself(caller: Caller, name: str | None, request: AuthorizationRequest) -> bool:
    return (
        caller.principal_type is PrincipalType.ASSUMED_ROLE
        and name == caller.arn
        and caller.account == request.resource_account
    )


def _has_account(grant: Grant, caller: Caller) -> bool:
    """True if the caller's account may retire the grant."""
    if caller.principal_type is PrincipalType.SERVICE:
        return False
    partition = caller.arn.split(":", 2)[1]
    root = f"arn:{partition}:iam::{caller.account}:root"
    return caller.account == grant.issuing_account or grant.retiring_principal == root
