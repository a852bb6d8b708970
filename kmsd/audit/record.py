"""Frame of every audit record: CloudTrail's field names, types and order, and its `userIdentity`.

Names and types follow CloudTrail's documented KMS examples ("Examples of AWS KMS log entries", KMS Developer Guide)
and "CloudTrail record contents" (CloudTrail User Guide). A field that does not apply is absent. Fields that
CloudTrail shows as null are null.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kmsd.domain.principal import Caller, PrincipalType
from kmsd.operations.declaration import ClientInfo

EVENT_VERSION = "1.11"
API_CALL = "AwsApiCall"
SERVICE_EVENT = "AwsServiceEvent"
ADMINISTRATIVE_EVENT = "KmsdAdministrativeEvent"
REFUSALS_EVENT = "KmsdRefusalsEvent"
MANAGEMENT = "Management"
INTERNAL = "AWS Internal"
"""CloudTrail's address and user agent for actions of the service itself."""
UNIX_SOCKET = "unix-socket"
"""`sourceIPAddress` of a request that came over a Unix socket."""
Resource = tuple[str, str, str]
"""(ARN, account, type)"""
CACHED = 1024
"""Maximum entries of each cache of encoded constant parts."""


class AdditionalEventData(msgspec.Struct, omit_defaults=True, rename="camel"):
    """Data that CloudTrail leaves to the service. AWS has the three key material ids; the other fields are kmsd's."""

    key_material_id: str | None = None
    source_key_material_id: str | None = None
    destination_key_material_id: str | None = None
    grant_id: str | None = None
    """The grant of a RetireGrant call, whose request may name it by a token only."""
    decided_by: list[str] | None = None
    """The statements or grants that allowed the call, one for each resource that was authorised."""
    grant_ids: list[str] | None = None
    reason: str | None = None
    """Reason of the refusal, for the operator; the client does not see it."""
    phase: str | None = None
    """Phase of an administrative action: `intent`, `outcome`."""
    host_name: str | None = None
    refused: dict[str, Any] | None = None
    """Numbers and kinds of aggregated refusals."""


class AuditRecord(msgspec.Struct, gc=False):
    """One record. Attributes have CloudTrail's names, which are not Python's; `UNSET` is absent from the record.

    No attribute has a default: the record of a call, a cost of every call, is built with positional arguments.
    """

    eventVersion: str  # noqa: N815 (the wire's name, as all below)
    userIdentity: msgspec.Raw  # noqa: N815
    eventTime: datetime  # noqa: N815
    """In UTC and in whole seconds: `2026-11-22T06:30:00Z`."""
    eventSource: str  # noqa: N815
    eventName: str  # noqa: N815
    awsRegion: str  # noqa: N815
    sourceIPAddress: str  # noqa: N815
    userAgent: str  # noqa: N815
    errorCode: str | UnsetType  # noqa: N815
    errorMessage: str | UnsetType  # noqa: N815
    # Null is a value here: CloudTrail shows these two even when they are empty.
    requestParameters: dict[str, Any] | None  # noqa: N815
    responseElements: dict[str, Any] | None  # noqa: N815
    additionalEventData: AdditionalEventData | UnsetType  # noqa: N815
    requestID: str | UnsetType  # noqa: N815
    eventID: str  # noqa: N815
    readOnly: bool | UnsetType  # noqa: N815
    resources: msgspec.Raw | UnsetType
    eventType: str  # noqa: N815
    managementEvent: bool  # noqa: N815
    recipientAccountId: str | UnsetType  # noqa: N815
    serviceEventDetails: dict[str, Any] | UnsetType  # noqa: N815
    eventCategory: str  # noqa: N815
    tlsDetails: msgspec.Raw | UnsetType  # noqa: N815


def event_of(
    *,
    user_identity: Mapping[str, Any],
    now: datetime,
    event_source: str,
    event_name: str,
    event_type: str,
    region: str,
    address: str,
    user_agent: str,
    error_code: str | UnsetType = UNSET,
    error_message: str | UnsetType = UNSET,
    parameters: Mapping[str, Any] | None = None,
    elements: Mapping[str, Any] | None = None,
    additional: AdditionalEventData | UnsetType = UNSET,
    request_id: str | UnsetType = UNSET,
    read_only: bool | UnsetType = UNSET,
    resources: tuple[Resource, ...] = (),
    account: str | UnsetType = UNSET,
    details: Mapping[str, Any] | UnsetType = UNSET,
    tls: msgspec.Raw | UnsetType = UNSET,
) -> bytes:
    """Return a record of anything but a call. Calls use positional arguments: their number makes keywords expensive."""
    given, returned = (None if one is None else dict(one) for one in (parameters, elements))
    more = UNSET if isinstance(details, UnsetType) else dict(details)
    origin = (
        EVENT_VERSION,
        msgspec.Raw(encode(user_identity)),
        now.replace(microsecond=0),
        event_source,
        event_name,
        region,
    )
    outcome = (address, user_agent, error_code, error_message, given, returned, additional)
    subject = (request_id, new_event_id(), read_only, resources_of(resources), event_type, True, account)
    fields = (*origin, *outcome, *subject, more, MANAGEMENT, tls)
    return encode(AuditRecord(*fields))


encode = msgspec.json.Encoder().encode
"""Encode an event as one line of JSON."""


def rfc3339(instant: datetime) -> str:
    """Return `2026-11-22T06:30:00Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# An event id must be unique, not secret: a random start for each process, then a counter.
_front, _ids = "", count()


def _seed_event_ids() -> None:
    global _front, _ids  # noqa: PLW0603 (per process, and drawn again in every child)
    start = os.urandom(16).hex()
    _front = f"{start[:8]}-{start[8:12]}-4{start[13:16]}-{'89ab'[int(start[16], 16) & 3]}{start[17:20]}-"
    _ids = count(int(start[20:], 16))


_seed_event_ids()
os.register_at_fork(after_in_child=_seed_event_ids)


def new_event_id() -> str:
    """Return a unique id in the form of a UUID."""
    return f"{_front}{next(_ids) & 0xFFFFFFFFFFFF:012x}"


def clean(text: str) -> str:
    """Return `text` as valid UTF-8: headers hold foreign bytes as surrogates, on which a record must never fail."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def address_of(source: ClientInfo) -> str:
    """Return `sourceIPAddress`; where a service acts for the caller, the service's name, as in CloudTrail."""
    if source.via_service:
        return service_principal(source.via_service)
    return source.address or UNIX_SOCKET


@lru_cache(maxsize=64)
def service_principal(via_service: str) -> str:
    """Return `logs.amazonaws.com` for `logs.us-east-1.amazonaws.com`."""
    return f"{via_service.partition('.')[0]}.amazonaws.com"


def tls_details(source: ClientInfo) -> msgspec.Raw | UnsetType:
    """Return `tlsDetails`; absent for plain HTTP."""
    if source.tls_version is None:
        return UNSET
    return _tls_details(source.tls_version, source.cipher, source.host)


@lru_cache(maxsize=CACHED)
def _tls_details(version: str, cipher: str | None, host: str) -> msgspec.Raw:
    return msgspec.Raw(encode({"tlsVersion": version, "cipherSuite": cipher, "clientProvidedHostHeader": clean(host)}))


@lru_cache(maxsize=CACHED)
def resources_of(resources: tuple[Resource, ...]) -> msgspec.Raw | UnsetType:
    """Return `resources` from (ARN, account, type); absent if there are none."""
    if not resources:
        return UNSET
    return msgspec.Raw(encode([{"accountId": account, "type": kind, "ARN": arn} for arn, account, kind in resources]))


# --- The caller -------------------------------------------------------------------------------------

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
