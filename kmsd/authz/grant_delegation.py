"""Delegation: CreateGrant by a caller that is itself allowed by a grant. The new grant must not be wider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.authz import denial_messages
from kmsd.authz.denial_messages import PolicyType
from kmsd.authz.request import Allowed

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest, Decision
    from kmsd.domain.grant import Grant


def may_delegate(request: AuthorizationRequest, granted: Allowed, child: Grant) -> Decision:
    """Return the decision on creating `child`, for a CreateGrant that `authorize(request)` allowed with `granted`.

    If a policy allowed CreateGrant, any grant may be created. If grants allowed it, one of them alone must cover the
    child; the permissions of several grants are not combined. `request.grants` must contain those grants.
    """
    if not granted.grant_ids:
        return granted
    parents = [grant for grant in request.grants if grant.grant_id in granted.grant_ids]
    for parent in parents:
        if covers(parent, child):
            return Allowed(f"grant:{parent.grant_id}", (parent.grant_id,))
    reason = f"grant:{granted.grant_ids[0]} gives CreateGrant, and no such grant covers the new one"
    return denial_messages.not_allowed(request, PolicyType.RESOURCE, reason)


def covers(parent: Grant, child: Grant) -> bool:
    """True if `parent` allows CreateGrant and everything that `child` allows.

    "The grantee principal can only create grants that allow some or all of the operations in the parent grant. The
    grant constraints … must be at least as strict as those in the parent grant" (KMS Developer Guide, Granting
    CreateGrant permission). The constraints are compared even if no operation of the child uses an encryption context.
    """
    return (
        "CreateGrant" in parent.operations
        and child.key_id == parent.key_id
        and set(child.operations) <= set(parent.operations)
        and _as_strict(parent, child)
    )


def _as_strict(parent: Grant, child: Grant) -> bool:
    """True if the parent admits every encryption context that the child admits."""
    if parent.encryption_context_equals is not None:
        # Only the same Equals admits no other context.
        return child.encryption_context_equals is not None and dict(child.encryption_context_equals) == dict(
            parent.encryption_context_equals
        )
    if not parent.encryption_context_subset:
        return True
    # "The child grant can add pairs to an EncryptionContextSubset constraint in the parent grant, but it cannot remove
    # them. The child grant can change an EncryptionContextSubset constraint to an EncryptionContextEquals constraint."
    pairs = child.encryption_context_equals
    if pairs is None:
        pairs = child.encryption_context_subset
    return pairs is not None and parent.encryption_context_subset.items() <= pairs.items()
