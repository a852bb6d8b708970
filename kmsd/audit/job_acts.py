"""Audit records of the daemon's own actions: rotation, expiry, deletion."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from kmsd.audit.calls import KEY
from kmsd.audit.record import INTERNAL, SERVICE_EVENT, event_of
from kmsd.domain.arn import ArnScope
from kmsd.domain.key import Key
from kmsd.operations.declaration import KMS


def record_of_service_event(
    *, now: datetime, arns: ArnScope, event_name: str, key: Key, details: Mapping[str, object]
) -> bytes:
    """Return the record of a job's action on a key."""
    return event_of(
        user_identity={"accountId": key.account, "invokedBy": INTERNAL},
        now=now,
        event_source=KMS.event_source,
        event_name=event_name,
        event_type=SERVICE_EVENT,
        region=arns.region,
        address=INTERNAL,
        user_agent=INTERNAL,
        read_only=False,
        resources=((key.arn, key.account, KEY),),
        account=key.account,
        details={"keyId": key.key_id, **details},
    )
