"""The condition values that a request brings to policies: `kms:…` and `aws:…` keys, looked up when asked for.

Most policies have no condition, and those that have ask for one or two: nothing is computed beforehand.
Values that follow from the caller (`aws:PrincipalArn`, `aws:username`, …) and from the encryption context
are the evaluator's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from kmsd.domain.key import Key
from kmsd.operations.model import Access, Call, OnKey

Value = str | tuple[str, ...]


def _text(value: object) -> Value:
    """A member of a request as a policy sees it."""
    match value:
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return tuple(str(item) for item in value)
        case _:
            return str(value)


MEMBERS: Mapping[str, str] = {
    "kms:bypasspolicylockoutsafetycheck": "bypass_policy_lockout_safety_check",
    "kms:expirationmodel": "expiration_model",
    "kms:grantoperations": "operations",
    "kms:granteeprincipal": "grantee_principal",
    "kms:retiringprincipal": "retiring_principal",
    "kms:rotationperiodindays": "rotation_period_in_days",
    "kms:schedulekeydeletionpendingwindowindays": "pending_window_in_days",
    "kms:wrappingalgorithm": "wrapping_algorithm",
    "kms:wrappingkeyspec": "wrapping_key_spec",
    "sts:externalid": "external_id",
    "sts:rolesessionname": "role_session_name",
}
"""Condition keys whose value is a member of the request, taken as it is."""

SPECIAL = (
    "aws:tagkeys",
    "kms:encryptionalgorithm",
    "kms:grantconstrainttype",
    "kms:grantisforawsresource",
    "kms:reencryptonsamekey",
    "kms:requestalias",
    "kms:validto",
)
"""Condition keys whose value is worked out."""


class Conditions(Mapping[str, Value]):
    """The conditions of one target of one call. Names are compared without case."""

    def __init__(self, call: Call, request: msgspec.Struct, access: Access, key: Key | None, alias: str) -> None:
        self._call = call
        self._request = request
        self._access = access
        self._key = key
        self._alias = alias
        self._known: dict[str, Value] = {}

    def know(self, aliases: tuple[str, ...], tags: Mapping[str, str]) -> None:
        """What only the store can tell of the key; told where a policy asks for it."""
        self._known = {f"aws:resourcetag/{name.lower()}": value for name, value in tags.items()}
        if aliases:
            self._known["kms:resourcealiases"] = aliases

    def __getitem__(self, name: str) -> Value:
        value = self._find(name.lower())
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        names = (*_REQUEST, *_KEY, *MEMBERS, *SPECIAL, *self._known, *self._request_tags())
        return (name for name in names if self._find(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _find(self, name: str) -> Value | None:
        if (of_request := _REQUEST.get(name)) is not None:
            return of_request(self._call)
        if (of_key := _KEY.get(name)) is not None:
            return None if self._key is None else of_key(self._key)
        if (member := MEMBERS.get(name)) is not None:
            value = getattr(self._request, member, None)
            return None if value is None else _text(value)
        if name in self._known:
            return self._known[name]
        return self._special(name)

    def _special(self, name: str) -> Value | None:
        request = self._request
        match name:
            case "kms:requestalias":
                return self._alias or None
            case "kms:encryptionalgorithm":
                is_crypto = isinstance(self._access, OnKey) and self._access.context is not None
                return "SYMMETRIC_DEFAULT" if is_crypto or hasattr(request, "ciphertext_blob") else None
            case "kms:grantconstrainttype":
                return _constraint_type(getattr(request, "constraints", None))
            case "kms:grantisforawsresource":
                return "false" if hasattr(request, "grantee_principal") else None
            case "kms:reencryptonsamekey":
                keys = [target.key for target in self._call.targets] if hasattr(request, "destination_key_id") else []
                return None if not keys else _text(all(key == keys[0] for key in keys))
            case "kms:validto":
                value = getattr(request, "valid_to", None)
                return None if value is None else datetime.fromtimestamp(value, UTC).isoformat()
            case "aws:tagkeys":
                return _tag_keys(request)
            case _:
                return self._request_tags().get(name)

    def _request_tags(self) -> Mapping[str, str]:
        tags = getattr(self._request, "tags", None) or ()
        if isinstance(tags, dict):  # as Logs has them
            return {f"aws:requesttag/{name.lower()}": value for name, value in tags.items()}
        return {f"aws:requesttag/{tag.tag_key.lower()}": tag.tag_value for tag in tags}


def _constraint_type(constraints: object) -> Value | None:
    if constraints is None:
        return None
    if getattr(constraints, "encryption_context_equals", None) is not None:
        return "EncryptionContextEquals"
    return "EncryptionContextSubset"


def _tag_keys(request: msgspec.Struct) -> Value | None:
    keys = getattr(request, "tag_keys", None)
    if keys is None:
        tags = getattr(request, "tags", None)
        keys = None if tags is None else list(tags) if isinstance(tags, dict) else [tag.tag_key for tag in tags]
    return None if keys is None else tuple(keys)


_REQUEST: Mapping[str, Callable[[Call], Value | None]] = {
    "aws:currenttime": lambda call: call.now.isoformat().replace("+00:00", "Z"),
    "aws:epochtime": lambda call: str(int(call.now.timestamp())),
    "aws:requestedregion": lambda call: call.world.place.region,
    "aws:securetransport": lambda call: "false" if call.source.tls_version is None else "true",
    "aws:sourceip": lambda call: call.source.address or None,
    "aws:useragent": lambda call: call.source.user_agent or None,
    "kms:calleraccount": lambda call: call.caller.account,
    "kms:viaservice": lambda call: call.source.via_service or None,
}
_KEY: Mapping[str, Callable[[Key], Value]] = {
    "kms:keyorigin": lambda key: key.origin.value,
    "kms:keyspec": lambda _: "SYMMETRIC_DEFAULT",
    "kms:keyusage": lambda _: "ENCRYPT_DECRYPT",
    "kms:multiregion": lambda _: "false",
}
