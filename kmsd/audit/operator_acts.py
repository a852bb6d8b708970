"""Audit records of operators' commands on the host, outside the API: `kmsd user create`, `kmsd open-blob`, …"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from kmsd.audit.record import ADMINISTRATIVE_EVENT, AdditionalEventData, Resource, clean, event_of
from kmsd.domain.arn import ArnScope
from kmsd.errors import ServiceError

LOCALHOST = "localhost"
"""`sourceIPAddress` of commands on the host itself."""


class Actor(msgspec.Struct, frozen=True):
    """The user who runs a command, according to the operating system. Root can forge all of it."""

    uid: int
    name: str
    host_name: str
    login_uid: int | None = None
    """The kernel's audit login uid: the user who logged in, before any su or sudo. None: no user logged in."""
    sudo_user: str = ""
    """SUDO_USER, for convenience; an environment variable proves nothing."""

    def identity(self, account: str) -> dict[str, Any]:
        """Return `userIdentity`: a type of kmsd's own, with the fields that readers of the trail look for."""
        shown: dict[str, Any] = {
            "type": "OSUser",
            "principalId": f"uid:{self.uid}",
            "accountId": account,
            "userName": clean(self.name),
            "uid": self.uid,
        }
        if self.login_uid is not None:
            shown["loginUid"] = self.login_uid
        if self.sudo_user:
            shown["sudoUser"] = clean(self.sudo_user)
        return shown


def record_of_administration(
    *,
    now: datetime,
    arns: ArnScope,
    actor: Actor,
    account: str,
    event_source: str,
    event_name: str,
    act_id: str,
    phase: str,
    parameters: Mapping[str, Any],
    elements: Mapping[str, Any] | None = None,
    resources: tuple[Resource, ...] = (),
    error: Exception | None = None,
) -> bytes:
    """Return the record of one phase (`intent`, `outcome`) of a command; both have `act_id` as their request id."""
    return event_of(
        user_identity=actor.identity(account),
        now=now,
        event_source=event_source,
        event_name=event_name,
        event_type=ADMINISTRATIVE_EVENT,
        region=arns.region,
        address=LOCALHOST,
        user_agent="kmsd",
        error_code=UNSET if error is None else type(error).__name__,
        error_message=UNSET if error is None else clean(_text(error)),
        parameters=parameters,
        elements=elements,
        additional=AdditionalEventData(phase=phase, host_name=actor.host_name),
        request_id=act_id,
        read_only=False,
        resources=resources,
        account=account,
    )


def _text(error: Exception) -> str:
    """Return the text of a known error; nothing for an unexpected one, whose text may quote secrets."""
    if isinstance(error, ServiceError):
        return error.message or error.detail
    return str(error) if type(error).__module__.startswith("kmsd.") else ""
