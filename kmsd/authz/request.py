"""Input and output of an authorisation decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz.circumstances import UNKNOWN, Circumstances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.grant import Grant
    from kmsd.domain.principal import Caller


class AuthorizationRequest(msgspec.Struct, frozen=True):
    """A request of `caller` for `action` on `resource`."""

    caller: Caller
    action: str
    """`kms:Encrypt`, `logs:PutLogEvents`, `sts:AssumeRole`."""
    resource: str
    """ARN of a key, alias, log group or role; `*` for actions that have none, such as `kms:ListKeys`."""
    resource_account: str
    """Account that owns the resource, 12 digits."""
    resource_policy: str | None = None
    """The key policy (or a role's trust policy) as JSON text. None: the resource has none, and the identity policies
    of its own account decide alone."""
    grants: Sequence[Grant] = ()
    """Grants on this key whose grantee is the caller (or its role), and those named by grant tokens."""
    encryption_context: Mapping[str, str] = {}
    """Encryption context of the request, for `kms:EncryptionContext:*` and grant constraints. Empty if the action has
    none."""
    conditions: Mapping[str, str | tuple[str, ...]] = {}
    """Condition values given by hand (`kmsd explain --condition`), by full key name. They replace the values from the
    circumstances, but not those that follow from the caller or the encryption context."""
    circumstances: Circumstances = UNKNOWN
    """Source of the other condition values (`kmsd.authz.condition_keys`)."""


class Allowed(msgspec.Struct, frozen=True):
    """The request is allowed."""

    by: str
    """Source for the audit record: `key-policy:Sid`, `identity-policy:Sid`, `grant:<id>` (`#n` if there is no Sid)."""
    grant_ids: tuple[str, ...] = ()


class Denied(msgspec.Struct, frozen=True):
    """The request is refused."""

    reason: str
    """Reason for log and audit record: the statement that denied, or the missing Allow."""
    message: str
    """AWS's message for the client: `User: … is not authorized to perform: … on resource: … because …`."""


Decision = Allowed | Denied
