"""The question that authorisation answers, and the forms of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.grant import Grant
    from kmsd.domain.principal import Caller


class Query(msgspec.Struct, frozen=True):
    """May `caller` do `action` on `resource`?"""

    caller: Caller
    action: str
    """`kms:Encrypt`, `logs:PutLogEvents`, `sts:AssumeRole`."""
    resource: str
    """ARN of a key, alias, log group or role; `*` for actions that have none, such as `kms:ListKeys`."""
    resource_account: str
    """12 digits: who owns the resource."""
    resource_policy: str | None = None
    """The key policy (or a role's trust policy) as JSON text; None: the resource has none, and the identity policies
    of its own account decide alone."""
    grants: Sequence[Grant] = ()
    """Grants on this key whose grantee is the caller (or its role), and those named by grant tokens."""
    encryption_context: Mapping[str, str] = {}
    """Of this request; for `kms:EncryptionContext:*` and grant constraints."""
    conditions: Mapping[str, str | tuple[str, ...]] = {}
    """Condition values that the request brings, by full key name (`kms:ViaService`, `aws:SourceIp`, …), in lower case
    where AWS compares without case; those that follow from the caller (`aws:PrincipalArn`, `aws:username`, …) and from
    the encryption context are added by the evaluator."""


class Allowed(msgspec.Struct, frozen=True):
    """Yes, and by what."""

    by: str
    """For the audit record: `key-policy:Sid`, `identity-policy:Sid`, `grant:<id>` (`#n` where there is no Sid)."""
    grant_ids: tuple[str, ...] = ()


class Denied(msgspec.Struct, frozen=True):
    """No, and why."""

    reason: str
    """For log and audit record: the statement that denied, or what was missing."""
    message: str
    """AWS's sentence for the client: `User: … is not authorized to perform: … on resource: … because …`."""


Decision = Allowed | Denied
