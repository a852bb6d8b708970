"""The question that authorisation answers, and the forms of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz.circumstances import UNKNOWN, Circumstances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.grant import Grant
    from kmsd.domain.principal import Caller


class AuthorizationRequest(msgspec.Struct, frozen=True):
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
    """Condition values that are given by hand (`kmsd explain --condition`), by full key name. They replace what the
    circumstances say, but not what follows from the caller or the encryption context."""
    circumstances: Circumstances = UNKNOWN
    """What condition keys take their values from (`kmsd.authz.condition_keys`)."""


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
