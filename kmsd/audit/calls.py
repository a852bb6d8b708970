"""Audit records of authenticated calls, and of requests refused before authentication."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kmsd.audit.record import (
    API_CALL,
    CACHED,
    EVENT_VERSION,
    MANAGEMENT,
    AdditionalEventData,
    AuditRecord,
    Resource,
    address_of,
    clean,
    encode,
    encoded_identity,
    event_of,
    new_event_id,
    resources_of,
    tls_details,
    user_identity,
)
from kmsd.audit.redaction import redact
from kmsd.domain.arn import ArnScope
from kmsd.domain.material import key_material_id
from kmsd.domain.principal import Caller
from kmsd.errors import ServiceError
from kmsd.operations.declaration import Call, ClientInfo, Kind, Operation, Target

KEY = "AWS::KMS::Key"
ALIAS = "AWS::KMS::Alias"
ROLE = "AWS::IAM::Role"
LOG_GROUP = "AWS::Logs::LogGroup"


class Outcome(msgspec.Struct, frozen=True):
    """Result of a call."""

    response: msgspec.Struct | None = None
    error: ServiceError | None = None
    reason: str = ""
    """Reason of the refusal, for the operator; the client does not see it."""


def record_of_call(
    operation: Operation[Any, Any], request: msgspec.Struct | None, call: Call, outcome: Outcome
) -> bytes:
    """Return the record of an authenticated call, as one line of JSON."""
    caller, source, error = call.caller, call.source, outcome.error
    writes = operation.writes or operation.appends
    address, agent, tls = _shown_source(source)
    # In the order of the fields of `AuditRecord`: keywords would cost as much as the whole encoding.
    return encode(
        AuditRecord(
            EVENT_VERSION,
            encoded_identity(caller, source.via_service),
            # `replace` takes twice as long.
            call.now - timedelta(microseconds=call.now.microsecond),
            operation.service.event_source,
            operation.name,
            call.dependencies.arns.region,
            address,
            agent,
            UNSET if error is None else error.code,
            UNSET if error is None else _message(error),
            None if request is None else redact(request),
            _elements(outcome.response, call) if writes and error is None else None,
            _additional(operation, call, outcome),
            call.request_id,
            new_event_id(),
            not writes,
            resources_of(_resources(call)),
            API_CALL,
            True,
            caller.account,
            UNSET,
            MANAGEMENT,
            tls,
        )
    )


@lru_cache(maxsize=CACHED)
def _shown_source(source: ClientInfo) -> tuple[str, str, msgspec.Raw | UnsetType]:
    """Return `sourceIPAddress`, `userAgent` and `tlsDetails`."""
    return address_of(source), clean(source.user_agent), tls_details(source)


def _message(error: ServiceError) -> str | UnsetType:
    return clean(error.message) if error.message else UNSET


def _resources(call: Call) -> tuple[Resource, ...]:
    """Return every resource that was found, even if the call was refused after that."""
    targets, created = call.targets, call.response_keys
    if len(targets) == 1 and not created and (key := targets[0].key) is not None:
        return ((key.arn, key.account, KEY),)
    if _names_two_keys(targets):
        # ReEncrypt "specifies two AWS KMS keys, the source KMS key and the destination KMS key, in that order".
        return tuple((target.key.arn, target.key.account, KEY) for target in targets if target.key is not None)
    found = [
        (target.arn, target.arn.split(":")[4], _kind(target.arn))
        if target.key is None
        else (target.key.arn, target.key.account, KEY)
        for target in targets
        # `*` and `key/*` mean that there is no resource, or none yet.
        if target.key is not None or not (target.arn == "*" or target.arn.endswith(":key/*"))
    ]
    found += [(arn, arn.split(":")[4], KEY) for arn in created]
    return tuple(dict.fromkeys(found))


def _names_two_keys(targets: list[Target]) -> bool:
    return len(targets) == 2 and targets[0].key is not None and targets[1].key is not None  # noqa: PLR2004 (the two)


def _kind(arn: str) -> str:
    resource = arn.split(":", 5)[5]
    if resource.startswith("role/"):
        return ROLE
    if resource.startswith("key/"):
        return KEY
    return LOG_GROUP if resource.startswith("log-group:") else ALIAS


def _elements(response: msgspec.Struct | None, call: Call) -> dict[str, Any] | None:
    """Return the response of a call that writes, with the key.

    "… include the key ARN of the affected KMS key in the responseElements.keyId value, even though this operation does
    not return the key ARN" (KMS Developer Guide, on DeleteAlias and a dozen others).
    """
    shown = {} if response is None else redact(response)
    affected = next((target.key.arn for target in call.targets if target.key is not None), None)
    if affected is None and response is None and call.response_keys:
        affected = call.response_keys[0]
    if affected is not None:
        shown["keyId"] = affected
    return shown or None


def _additional(operation: Operation[Any, Any], call: Call, outcome: Outcome) -> AdditionalEventData | UnsetType:
    """Return the key material used, the statements or grants that allowed the call, or the reason of its refusal."""
    data = AdditionalEventData()
    allowed = False
    for target in call.targets:
        if target.decision is not None:
            allowed = True
            data.decided_by = [*(data.decided_by or ()), target.decision.by]
            if target.decision.grant_ids:
                data.grant_ids = [*(data.grant_ids or ()), *target.decision.grant_ids]
    if outcome.error is not None:
        data.reason = clean(outcome.reason) or None
    elif operation.kind is Kind.CRYPTOGRAPHIC and (key := call.targets[0].key) is not None:
        # The key material that encrypted or decrypted: the response's, or else the current one.
        response, current = outcome.response, key.current_material
        source = getattr(response, "source_key_material_id", None)
        if source is not None:
            data.source_key_material_id = source
            data.destination_key_material_id = getattr(response, "destination_key_material_id", None)
        else:
            used = getattr(response, "key_material_id", None)
            data.key_material_id = key_material_id(current.material_id) if used is None and current else used
    if call.grant_id:
        data.grant_id = call.grant_id
    return data if allowed or data.reason or call.grant_id else UNSET


def record_of_refusal(
    *,
    now: datetime,
    request_id: str,
    arns: ArnScope,
    source: ClientInfo,
    event_source: str,
    event_name: str,
    access_key_id: str,
    error: ServiceError,
    caller: Caller | None = None,
) -> bytes:
    """Return the record of a request that was refused before it reached an operation.

    `caller` is given if the signature was valid. Usually it is not: a missing or wrong signature, or an old date.
    """
    unknown = {"type": "Unknown", "accessKeyId": clean(access_key_id)}
    return event_of(
        user_identity=unknown if caller is None else user_identity(caller),
        now=now,
        event_source=event_source,
        event_name=clean(event_name),
        event_type=API_CALL,
        region=arns.region,
        address=address_of(source),
        user_agent=clean(source.user_agent),
        error_code=error.code,
        error_message=_message(error),
        additional=AdditionalEventData(reason=clean(error.detail)) if error.detail else UNSET,
        request_id=request_id,
        account=UNSET if caller is None else caller.account,
        tls=tls_details(source),
    )
