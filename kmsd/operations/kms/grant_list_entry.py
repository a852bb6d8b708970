"""GrantListEntry: a grant in ListGrants and ListRetirableGrants."""

from __future__ import annotations

from kmsd.domain.arn import ArnScope
from kmsd.domain.grant import Grant
from kmsd.operations.kms.shapes import GrantConstraints, GrantListEntry


def grant_list_entry(grant: Grant, key_arn: str, arns: ArnScope) -> GrantListEntry:
    """Convert a grant to an entry of a list."""
    equals, subset = grant.encryption_context_equals, grant.encryption_context_subset
    constraints = None
    if equals is not None or subset is not None:
        constraints = GrantConstraints(
            encryption_context_equals=None if equals is None else dict(equals),
            encryption_context_subset=None if subset is None else dict(subset),
        )
    return GrantListEntry(
        key_id=key_arn,
        grant_id=grant.grant_id,
        name=grant.name,
        creation_date=grant.created_at.timestamp(),
        grantee_principal=grant.grantee_principal,
        retiring_principal=grant.retiring_principal,
        issuing_account=arns.root(grant.issuing_account),
        operations=list(grant.operations),
        constraints=constraints,
    )
