"""Audit records of the logs service's use of customers' keys, in the form that CloudTrail shows service calls."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
from msgspec import UNSET

from kmsd.audit.calls import KEY
from kmsd.audit.record import (
    API_CALL,
    EVENT_VERSION,
    AdditionalEventData,
    AuditRecord,
    clean,
    encode,
    new_event_id,
    resources_of,
    service_principal,
    user_identity,
)
from kmsd.cloudwatch_logs.service_key_access import KeyUse
from kmsd.domain.arn import ArnScope
from kmsd.operations.declaration import KMS


def record_of_key_use(use: KeyUse, arns: ArnScope) -> bytes:
    """Encode the record of one use of a key by the service, successful or refused."""
    error, key, decision = use.error, use.key, use.decision
    principal = service_principal(use.caller.arn)
    additional = AdditionalEventData()
    if decision is not None:
        additional.decided_by, additional.grant_ids = [decision.by], list(decision.grant_ids) or None
    elif error is not None:
        additional.reason = clean(error.detail or error.message)
    return encode(
        AuditRecord(
            eventVersion=EVENT_VERSION,
            userIdentity=msgspec.Raw(encode(user_identity(use.caller))),
            eventTime=use.now.replace(microsecond=0),
            eventSource=KMS.event_source,
            eventName=use.action,
            awsRegion=arns.region,
            sourceIPAddress=principal,
            userAgent=principal,
            errorCode=UNSET if error is None else error.code,
            errorMessage=UNSET if error is None else clean(error.message),
            requestParameters=_parameters(use),
            responseElements=None,
            additionalEventData=additional,
            requestID=str(uuid4()),
            eventID=new_event_id(),
            readOnly=True,
            resources=resources_of(((key.arn, key.account, KEY),)) if key is not None else UNSET,
            eventType=API_CALL,
            managementEvent=True,
            recipientAccountId=use.subject.account,
            serviceEventDetails=UNSET,
            eventCategory="Management",
            tlsDetails=UNSET,
        )
    )


def _parameters(use: KeyUse) -> dict[str, Any]:
    shown: dict[str, Any] = {"keyId": use.key_arn}
    if use.action != "DescribeKey":
        shown["encryptionContext"] = dict(use.subject.context)
    if use.action == "GenerateDataKey":
        shown["keySpec"] = "AES_256"
    if use.action == "Decrypt":
        shown["encryptionAlgorithm"] = "SYMMETRIC_DEFAULT"
    return shown
