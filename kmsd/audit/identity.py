"""The caller in an audit record: CloudTrail's `userIdentity`."""

from __future__ import annotations

from typing import Any

import msgspec

from kmsd.audit.record import CACHED, encode, rfc3339, service_principal
from kmsd.domain.principal import Caller, PrincipalType

_IDENTITY_TYPES = {
    PrincipalType.ACCOUNT: "Root",
    PrincipalType.USER: "IAMUser",
    PrincipalType.ASSUMED_ROLE: "AssumedRole",
}
# (caller, encoded) by access key id. Valid while the caller is the same object; cleared at `CACHED` entries.
_encoded: dict[str, tuple[Caller, msgspec.Raw]] = {}


def encoded_identity(caller: Caller, via_service: str = "") -> msgspec.Raw:
    """Return `user_identity` as JSON, encoded once for each known caller."""
    if via_service:
        return msgspec.Raw(encode({**user_identity(caller), "invokedBy": service_principal(via_service)}))
    known = _encoded.get(caller.access_key_id)
    if known is not None and known[0] is caller:
        return known[1]
    if len(_encoded) >= CACHED:
        _encoded.clear()
    encoded = msgspec.Raw(encode(user_identity(caller)))
    _encoded[caller.access_key_id] = (caller, encoded)
    return encoded


def user_identity(caller: Caller) -> dict[str, Any]:
    """Return CloudTrail's `userIdentity`."""
    if caller.principal_type is PrincipalType.SERVICE:
        return {"type": "AWSService", "invokedBy": service_principal(caller.arn)}
    if caller.principal_type is PrincipalType.WEB_IDENTITY:
        return {
            "type": "WebIdentityUser",
            "principalId": caller.principal_id,
            "userName": caller.user_name,
            "identityProvider": caller.identity_provider,
        }
    identity: dict[str, Any] = {
        "type": _IDENTITY_TYPES[caller.principal_type],
        "principalId": caller.principal_id,
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": caller.access_key_id,
    }
    if caller.user_name is not None:
        identity["userName"] = caller.user_name
    if caller.issued_at is not None:
        context: dict[str, Any] = {
            "attributes": {"creationDate": rfc3339(caller.issued_at), "mfaAuthenticated": "false"}
        }
        if caller.role_arn is not None:
            context["sessionIssuer"] = {
                "type": "Role",
                "principalId": caller.principal_id.partition(":")[0],
                "arn": caller.role_arn,
                "accountId": caller.account,
                "userName": caller.role_arn.rpartition("/")[2],
            }
        if caller.source_identity:
            context["sourceIdentity"] = caller.source_identity
        if caller.identity_provider:
            context["webIdFederationData"] = {"federatedProvider": caller.identity_provider}
        identity["sessionContext"] = context
    return identity
