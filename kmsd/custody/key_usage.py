"""The last use of each key, found in the audit trail.

The process that copies the trail passes on each batch of records before it stores the copy. A crash in between only
repeats the batch. So the table follows the trail, through restarts and new files, at most two seconds behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from kmsd.domain.key_usage import KeyUse
from kmsd.ports import Store

TRACKED = frozenset(
    {
        *("Encrypt", "Decrypt", "ReEncrypt", "Sign", "Verify", "GenerateMac", "VerifyMac", "DeriveSharedSecret"),
        *("GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "Encapsulate", "Decapsulate"),
        *("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"),
    }
)
"""`KeyLastUsageTrackingOperation` of AWS's model."""
_EVENT_NAME = '"eventSource":"kms.amazonaws.com","eventName":"'


class _Resource(msgspec.Struct, rename={"arn": "ARN"}):
    arn: str


class _Event(msgspec.Struct, rename="camel"):
    event_name: str
    event_time: datetime
    event_id: str = msgspec.field(name="eventID")
    request_id: str = msgspec.field(name="requestID", default="")
    error_code: str | None = None
    resources: list[_Resource] = []


_decode = msgspec.json.Decoder(_Event).decode


def last_uses(records: Sequence[str]) -> Mapping[str, KeyUse]:
    """Return the last use of each key in consecutive audit records, by key id. Refused calls are no use."""
    found: dict[str, KeyUse] = {}
    for record in reversed(records):
        if not _may_be_use(record):
            continue
        event = _decode(record)
        if event.error_code is not None:
            continue
        for resource in event.resources:
            _, is_key, key_id = resource.arn.partition(":key/")
            if is_key and key_id not in found:
                found[key_id] = KeyUse(key_id, event.event_name, event.event_time, event.event_id, event.request_id)
    return found


def _may_be_use(record: str) -> bool:
    """Return whether a record is of a tracked operation, by its text alone: most others need not be decoded."""
    begin = record.find(_EVENT_NAME) + len(_EVENT_NAME)
    return begin >= len(_EVENT_NAME) and record[begin : record.find('"', begin)] in TRACKED


async def record(store: Store, records: Sequence[str]) -> None:
    """Store the last use of each key in consecutive records. Raises `StoreError`."""
    uses = last_uses(records)
    if uses:
        async with store.write() as transaction:
            await transaction.put_key_uses(list(uses.values()))
