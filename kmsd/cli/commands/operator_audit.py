"""Audit records for commands on the host, in the same trail as those of clients' calls."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from kmsd.app import Components, arn_scope_of, open_components
from kmsd.audit import Actor, record_of_administration
from kmsd.cli import data_owner
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.database import open_store
from kmsd.ports import AuditUnavailable, Clock, Reader, StoreError, TokenError

IAM = "iam.amazonaws.com"
"""`eventSource` of actions on users, access keys and roles, under IAM's names."""
KMS = "kms.amazonaws.com"
"""`eventSource` of actions on keys, under KMS's names."""
KMSD = "kmsd.local"
"""`eventSource` of actions that AWS does not have."""
INTENT, OUTCOME = "intent", "outcome"
_LOGINUID_UNSET = 2**32 - 1


class Act(msgspec.Struct):
    """An action in progress."""

    elements: dict[str, Any] = {}
    """Result: `responseElements` of the outcome's record. Never a secret."""


@asynccontextmanager
async def administrative_act(
    components: Components,
    event_name: str,
    parameters: Mapping[str, Any],
    *,
    source: str = KMSD,
    account: str = "",
    resources: tuple[tuple[str, str, str], ...] = (),
) -> AsyncIterator[Act]:
    """Record an action of a command that changes or decrypts something.

    The intent is durable before the block begins; on `AuditUnavailable` nothing has happened. The outcome is recorded
    when the block ends, so a command that prints after the block reports nothing that is not recorded. If the process
    dies inside the block, there is an intent without an outcome.
    """
    async with recorded_act(
        components.config,
        components.sink,
        components.pipeline.clock,
        event_name,
        parameters,
        source=source,
        account=account,
        resources=resources,
    ) as act:
        yield act


class Records(Protocol):
    """Where the records of an action go."""

    async def append(self, record: bytes) -> None:
        """Write a record; durable on return (`kmsd.ports.AuditSink`)."""
        ...


@asynccontextmanager
async def recorded_act(
    config: Config,
    sink: Records,
    clock: Clock,
    event_name: str,
    parameters: Mapping[str, Any],
    *,
    source: str = KMSD,
    account: str = "",
    resources: tuple[tuple[str, str, str], ...] = (),
) -> AsyncIterator[Act]:
    """Record an action like `administrative_act`, for a command that has not opened all components."""
    record = partial(
        record_of_administration,
        arns=arn_scope_of(config),
        actor=actor(),
        account=account or config.account,
        event_source=source,
        event_name=event_name,
        act_id=str(uuid4()),
        parameters={name: value for name, value in parameters.items() if value is not None},
        resources=resources,
    )
    await sink.append(record(now=clock.now(), phase=INTENT))
    act = Act()
    try:
        yield act
    except Exception as exc:
        # The operator must see the error of the action, not one of its record.
        with suppress(AuditUnavailable, StoreError, TokenError, ConfigError):
            await sink.append(record(now=clock.now(), phase=OUTCOME, error=exc))
        raise
    await sink.append(record(now=clock.now(), phase=OUTCOME, elements=act.elements or None))


@asynccontextmanager
async def acting(
    config: Config, event_name: str, parameters: Mapping[str, Any], *, source: str = IAM, account: str = ""
) -> AsyncIterator[tuple[Components, Act]]:
    """Open the components for one recorded action, by default one on users, access keys or roles."""
    async with (
        open_components(config, "cli") as components,
        administrative_act(components, event_name, parameters, source=source, account=account) as act,
    ):
        yield components, act


@asynccontextmanager
async def reading(config: Config) -> AsyncIterator[Reader]:
    """Open only the database, for a command that needs neither token nor PIN. Raises `StoreUnavailable`."""
    async with open_store(config) as store:
        yield await store.read()


def actor() -> Actor:
    """Return the user who started this process, root even after the change of user, as the operating system says."""
    uid = data_owner.caller_uid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return Actor(uid, name, socket.gethostname(), _login_uid(), os.environ.get("SUDO_USER", "")[:64])


def _login_uid() -> int | None:
    """Return the kernel's audit login uid; None if it is not kept, or no user logged in."""
    try:
        found = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if found == _LOGINUID_UNSET else found
