"""Log groups and log streams: their fields, names and ARNs."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidParameterException, ResourceNotFoundException

if TYPE_CHECKING:
    from kmsd.domain.arn import ArnScope

# PutRetentionPolicy, retentionInDays: "Possible values are: …".
RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
RESERVED = "/kmsd/"
"""Name prefix of the daemon's own groups. Clients cannot create such a group or change its contents."""
AUDIT_GROUP = "/kmsd/audit"
"""Group with the copy of the audit trail."""
NO_GROUP = "The specified log group does not exist."
NO_STREAM = "The specified log stream does not exist."
MILLISECOND = timedelta(milliseconds=1)
_ARN_PARTS = 7
_NAME = re.compile(r"[.\-_/#A-Za-z0-9]{1,512}", re.ASCII)


class LogGroup(msgspec.Struct, frozen=True):
    """Log group as the store holds it. Times are aware and in UTC."""

    group_id: bytes
    """16 random bytes; a later group of the same name gets a new id."""
    account: str
    name: str
    arn: str
    """ARN without the `:*` that DescribeLogGroups appends in its older member."""
    created_at: datetime
    log_class: str = "STANDARD"
    retention_days: int | None = None
    """None: events do not expire."""
    kms_key: str | None = None
    """ARN of the key that encrypts new events; None: the daemon's own key."""
    revision: int = 0
    """Incremented by every change, so that one of two concurrent changes can be refused."""

    @property
    def reserved(self) -> bool:
        """True if the daemon maintains the group and clients may only read it."""
        return self.name.startswith(RESERVED)

    def oldest(self, now: datetime) -> int:
        """Return the timestamp of the oldest event kept at `now`, in milliseconds; 0: all are kept."""
        if self.retention_days is None:
            return 0
        return millis(now - timedelta(days=self.retention_days))

    def expires_at(self, timestamp: int) -> int:
        """Return when an event of this time expires under the present retention, in milliseconds; 0: never."""
        return 0 if self.retention_days is None else timestamp + timedelta(days=self.retention_days) // MILLISECOND


class LogStream(msgspec.Struct, frozen=True):
    """Log stream as the store holds it."""

    stream_id: bytes
    """16 random bytes."""
    group_id: bytes
    name: str
    created_at: datetime


class ResultsKey(msgspec.Struct, frozen=True):
    """Key that encrypts the stored query results of one account."""

    account: str
    kms_key: str | None = None
    revision: int = 0


def millis(instant: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return int(instant.timestamp() * 1000)


def group_arn(arns: ArnScope, account: str, name: str) -> str:
    """Return `arn:aws:logs:REGION:ACCOUNT:log-group:NAME`, which is also the encryption context's `aws:logs:arn`."""
    return f"arn:{arns.partition}:logs:{arns.region}:{account}:log-group:{name}"


def stream_arn(group: str, stream: str) -> str:
    """Return the ARN of a stream in the group with the ARN `group`.

    AWS authorises actions on a whole group with an empty stream name, so that `…:log-group:NAME:*` in a policy covers
    both ("not authorized to perform: logs:CreateLogStream on resource: …:log-group:NAME:log-stream:…").
    """
    return f"{group}:log-stream:{stream}"


def results_arn(arns: ArnScope, account: str) -> str:
    """Return `arn:aws:logs:REGION:ACCOUNT:query-result:*`, the ARN of all query results of an account."""
    return f"arn:{arns.partition}:logs:{arns.region}:{account}:query-result:*"


def parse_identifier(text: str, arns: ArnScope, account: str) -> str:
    """Return the group's name from `logGroupIdentifier` or `resourceArn`: a name, or an ARN with or without `:*`.

    Raises InvalidParameterException for anything else, ResourceNotFoundException for a group elsewhere.
    """
    if not text.startswith("arn:"):
        return text
    parts = text.split(":", _ARN_PARTS - 1)
    if len(parts) != _ARN_PARTS or parts[2] != "logs" or parts[5] != "log-group":
        raise InvalidParameterException("Invalid ARN: it does not name a log group.")
    name = parts[6].removesuffix(":*")
    if _NAME.fullmatch(name) is None:
        raise InvalidParameterException("Invalid ARN: it does not name a log group.")
    if parts[1] != arns.partition or parts[3] != arns.region or parts[4] != account:
        raise ResourceNotFoundException(NO_GROUP)
    return name
