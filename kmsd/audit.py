"""What an audit record says: a CloudTrail event, one for each call, allowed or refused.

Which members of request and response it shows follows from the shapes: all but the secret ones. The
fields and their types are those of CloudTrail's documented KMS examples; docs/audit.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import msgspec

from kmsd.domain.arn import Place
from kmsd.domain.key import Key
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.domain.shapes import Constraint, camel
from kmsd.errors import ServiceError
from kmsd.operations.model import Call, Operation, Service, Source

EVENT_VERSION = "1.11"
_SHOWN: dict[type, tuple[tuple[str, str], ...]] = {}


def shown_members(struct: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """(attribute, name in the record) of every member that is not secret; derived once for each struct."""
    known = _SHOWN.get(struct)
    if known is None:
        hints = get_type_hints(struct, include_extras=True)
        names = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
        known = tuple((name, camel(names[name])) for name in struct.__struct_fields__ if not _is_secret(hints[name]))
        _SHOWN[struct] = known
    return known


def _is_secret(hint: Any) -> bool:
    """Whether a type, or one of the alternatives of a union, carries a secret constraint."""
    return any(
        (isinstance(part, Constraint) and part.secret) or (not isinstance(part, Constraint) and _is_secret(part))
        for part in (*getattr(hint, "__metadata__", ()), *get_args(hint))
        if isinstance(part, Constraint) or hasattr(part, "__metadata__") or get_args(part)
    )


def show(value: Any) -> Any:
    """A request or response as JSON values, without secrets, absent members left out."""
    match value:
        case msgspec.Struct():
            members = ((name, getattr(value, attribute)) for attribute, name in shown_members(type(value)))
            return {name: show(member) for name, member in members if member is not None and member != {}}
        case list() | tuple():
            return [show(item) for item in value]
        case bytes():
            return f"{len(value)} bytes"
        case _:
            return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    response: msgspec.Struct | None = None
    error: ServiceError | None = None
    reason: str = ""
    """Why it was refused, for the operator; not told to the client."""


def record_of_call(
    operation: Operation[Any, Any], request: msgspec.Struct | None, call: Call, outcome: Outcome
) -> bytes:
    """The record of an authenticated call, as one line of JSON."""
    event = _event(call.now, call.request_id, call.source, operation.service.event_source, operation.name)
    event["awsRegion"] = call.world.place.region
    event["userIdentity"] = user_identity(call.caller)
    event["readOnly"] = not operation.writes
    event["requestParameters"] = None if request is None else show(request)
    shown = operation.writes and outcome.response is not None
    event["responseElements"] = show(outcome.response) if shown else None
    event["recipientAccountId"] = call.caller.account
    event["resources"] = [
        {"accountId": target.key.account, "type": "AWS::KMS::Key", "ARN": target.arn}
        for target in call.targets
        if target.key is not None
    ] + [{"accountId": call.caller.account, "type": "AWS::KMS::Key", "ARN": arn} for arn in call.response_keys]
    decided = [target.decision.by for target in call.targets if target.decision is not None]
    if decided:
        event["additionalEventData"] = {"decidedBy": decided}
    _add_error(event, outcome)
    return msgspec.json.encode(event)


def record_of_refusal(
    *,
    now: datetime,
    request_id: str,
    place: Place,
    source: Source,
    event_source: str,
    event_name: str,
    access_key_id: str,
    error: ServiceError,
) -> bytes:
    """The record of a request that was refused before anybody was known: no signature, a wrong one, a stale date."""
    event = _event(now, request_id, source, event_source, event_name)
    event["awsRegion"] = place.region
    event["userIdentity"] = {"type": "Unknown", "accessKeyId": access_key_id}
    _add_error(event, Outcome(error=error, reason=error.detail))
    return msgspec.json.encode(event)


def record_of_service_event(
    *, now: datetime, place: Place, event_name: str, key: Key, details: Mapping[str, object]
) -> bytes:
    """The record of what the daemon does by itself: rotation, expiry, deletion."""
    source = Source(address=Service.KMS.event_source, user_agent=Service.KMS.event_source, tls_version=None)
    event = _event(now, str(uuid4()), source, Service.KMS.event_source, event_name)
    event["eventType"] = "AwsServiceEvent"
    event["awsRegion"] = place.region
    event["userIdentity"] = {"accountId": key.account, "invokedBy": "AWS Internal"}
    event["readOnly"] = False
    event["requestParameters"] = None
    event["responseElements"] = None
    event["recipientAccountId"] = key.account
    event["resources"] = [{"accountId": key.account, "type": "AWS::KMS::Key", "ARN": key.arn}]
    event["serviceEventDetails"] = {"keyId": key.key_id, **details}
    return msgspec.json.encode(event)


def user_identity(caller: Caller) -> dict[str, Any]:
    """CloudTrail's `userIdentity`."""
    if caller.principal_type is PrincipalType.SERVICE:
        return {"type": "AWSService", "invokedBy": caller.arn}
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
        identity["sessionContext"] = context
    return identity


_IDENTITY_TYPES = {
    PrincipalType.ACCOUNT: "Root",
    PrincipalType.USER: "IAMUser",
    PrincipalType.ASSUMED_ROLE: "AssumedRole",
}


def rfc3339(instant: datetime) -> str:
    """`2026-11-22T06:30:00Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _event(now: datetime, request_id: str, source: Source, event_source: str, event_name: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "eventVersion": EVENT_VERSION,
        "eventTime": rfc3339(now),
        "eventSource": event_source,
        "eventName": event_name,
        "sourceIPAddress": source.address,
        "userAgent": source.user_agent,
        "requestID": request_id,
        "eventID": str(uuid4()),
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "eventCategory": "Management",
    }
    if source.tls_version is not None:
        event["tlsDetails"] = {
            "tlsVersion": source.tls_version,
            "cipherSuite": source.cipher,
            "clientProvidedHostHeader": source.host,
        }
    return event


def _add_error(event: dict[str, Any], outcome: Outcome) -> None:
    if outcome.error is not None:
        event["errorCode"] = outcome.error.code
        event["errorMessage"] = outcome.error.message
        if outcome.reason:
            event["additionalEventData"] = {"reason": outcome.reason}
