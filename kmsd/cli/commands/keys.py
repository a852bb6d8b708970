"""`kmsd key`: list and show keys, and disable or enable one, on the host and without an access key.

For emergencies. A running daemon obeys a change at once, as if a client had made it. Key policies are not checked;
the audit record is written first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from kmsd.app import Components, SystemClock, open_components
from kmsd.audit import KEY
from kmsd.authz.lockout import default_key_policy
from kmsd.cli.commands import key_documents
from kmsd.cli.commands.check_policies import all_keys
from kmsd.cli.commands.custody import custody_of
from kmsd.cli.commands.listing import add_json, show, time_of
from kmsd.cli.commands.named_keys import key_named
from kmsd.cli.commands.operator_audit import KMS, administrative_act, reading
from kmsd.cli.commands.users import account_of, add_account
from kmsd.config.sections import Config
from kmsd.domain.key import Key
from kmsd.domain.key_state import KeyState, Transition, Usable
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, TryLater
from kmsd.ports import Reader, Transaction

_PAGE = 1000


def add_to(commands: Any) -> None:
    """Declare the commands."""
    key = commands.add_parser(
        "key", help="list, show, disable, enable keys; reset a key policy; attest and certify"
    ).add_subparsers(dest="act", required=True)
    listing = key.add_parser("list", help="all keys: ARN, state, origin, time of creation, aliases")
    add_account(listing)
    add_json(listing)
    listing.set_defaults(run=list_keys, needs_pin=False)
    one = key.add_parser("show", help="one key with its policy")
    add_json(one)
    one.set_defaults(run=show_key, needs_pin=False)
    disable = key.add_parser("disable", help="no cryptographic use from now on")
    disable.set_defaults(run=disable_key)
    enable = key.add_parser("enable", help="allow its use again")
    enable.set_defaults(run=enable_key)
    policy = key.add_parser("policy", help="what its key policy says").add_subparsers(dest="policy_act", required=True)
    reset = policy.add_parser("reset", help="put the default key policy in place; prints the one before")
    reset.set_defaults(run=reset_policy)
    for command in (one, disable, enable, reset):
        _add_key(command)
    key_documents.add_to(key, _add_key)


def _add_key(command: argparse.ArgumentParser) -> None:
    command.add_argument("key", metavar="KEY", help="key id, ARN or alias")


async def list_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key list`. Needs the database only."""
    now = SystemClock().now()
    async with reading(config) as reader:
        users, roles = await reader.users(), await reader.roles()
        known = {config.account, *(user.account for user in users), *(role.account for role in roles)}
        accounts = {account_of(config, options)} if options.account else known
        async for key in all_keys(reader, accounts, now):
            aliases, state, created_at = await _aliases(reader, key, now), key.state_at(now), key.created_at
            text = f"{key.arn}\t{state}\t{key.origin}\t{time_of(created_at)}\t{','.join(aliases) or '-'}"
            fields = {"arn": key.arn, "state": state, "spec": key.spec, "usage": key.usage, "origin": key.origin}
            show(options, text, **fields, created_at=created_at, aliases=aliases)
    return 0


async def show_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key show`. Needs the database only."""
    now = SystemClock().now()
    async with reading(config) as reader:
        key = await key_named(reader, config, options.key, now)
        lines = await _described(reader, key, now)
    text = "\n".join(f"{name}: {_printable(value)}" for name, value in lines.items())
    fields = {name.lower().replace(" ", "_"): value for name, value in lines.items()}
    show(options, f"{text}\nPolicy:\n{key.policy}", **fields, policy=json.loads(key.policy))
    return 0


async def _described(reader: Reader, key: Key, now: datetime) -> Mapping[str, str]:
    days = key.rotation_period_days
    shown = {
        "Key": key.arn,
        "State": key.state_at(now).value,
        "Spec": key.spec.value,
        "Usage": key.usage.value,
        "Algorithms": ", ".join(key.algorithms),
        "Origin": key.origin.value,
        "Custody": _custody(key),
        "Created": time_of(key.created_at),
        "Description": key.description or "-",
        "Aliases": ", ".join(await _aliases(reader, key, now)) or "-",
        "Tags": ", ".join(f"{name}={value}" for name, value in (await reader.tags_of(key.key_id)).items()) or "-",
        "Rotation": "off" if days is None else f"every {days} days",
        "Grants": str(await reader.count_grants(key.key_id)),
    }
    if key.deletion_at is not None:
        shown["Deletion"] = time_of(key.deletion_at)
    if key.valid_to is not None:
        shown["Material expires"] = time_of(key.valid_to)
    return shown


def _custody(key: Key) -> str:
    """Return where the materials of the key are kept."""
    counts = Counter(custody_of(material) for material in key.materials.values())
    return ", ".join(f"{number} {custody}" for custody, number in counts.items()) or "-"


async def _aliases(reader: Reader, key: Key, now: datetime) -> list[str]:
    found = await reader.aliases_after(key.account, "", _PAGE, now=now, key_id=key.key_id)
    return [alias.name for alias in found]


def _printable(text: str) -> str:
    """Escape control characters: text from a client must not move the operator's cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


async def disable_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key disable`: once this returns, no worker uses the key."""
    return await _move(config, options.key, "DisableKey", Transition.DISABLE, KeyState.DISABLED)


async def enable_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key enable`."""
    return await _move(config, options.key, "EnableKey", Transition.ENABLE, KeyState.ENABLED)


async def _move(config: Config, name: str, event_name: str, event: Transition, wanted: KeyState) -> int:
    """Apply `event` to a key, in the key states in which clients may call DisableKey or EnableKey."""
    async with open_components(config, "cli") as components:
        key = await _found(components, name)
        before = key.state_at(_now(components))
        if before is wanted:
            print(f"{key.arn} is {wanted} already: nothing to do")
            return 0
        async with _changed(components, key, event_name, {}) as (transaction, present):
            try:
                Usable.WITH_MATERIAL.refuse(present.state_at(_now(components)), present.origin, present.arn)
            except ServiceError as exc:
                raise InputRefused(f"{exc.message} Its state does not change") from exc
            await transaction.update_key(present, present.after(event))
    print(f"{key.arn} was {before}, and is {wanted}")
    return 0


async def reset_policy(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key policy reset`: let identity policies of the account decide again. Prints the previous policy."""
    async with open_components(config, "cli") as components:
        key = await _found(components, options.key)
        policy = default_key_policy(key.account, config.partition)
        if key.policy == policy:
            print(f"{key.arn} has the default key policy already: nothing to do")
            return 0
        print(f"the key policy of {key.arn} until now:\n{key.policy}")
        sys.stdout.flush()
        parameters = {"policyName": "default", "policy": policy, "previousPolicy": key.policy}
        async with _changed(components, key, "PutKeyPolicy", parameters) as (transaction, present):
            if present.policy != key.policy:
                raise TryLater(f"the key policy of {key.arn} was changed at this moment: try again")
            await transaction.update_key(present, replace(present, policy=policy))
    root = f"arn:{config.partition}:iam::{key.account}:root"
    print(f"now it is the default: {root} may do everything, and identity policies of that account decide")
    return 0


def _now(components: Components) -> datetime:
    return components.pipeline.clock.now()


async def _found(components: Components, name: str) -> Key:
    """Return the key with this name. Raises `NotFound`."""
    return await key_named(await components.store.read(), components.config, name, _now(components))


@asynccontextmanager
async def _changed(
    components: Components, key: Key, event_name: str, parameters: Mapping[str, Any]
) -> AsyncIterator[tuple[Transaction, Key]]:
    """Open a transaction within a recorded action on a key; yield it with the key as it is there."""
    async with (
        administrative_act(
            components,
            event_name,
            {"keyId": key.arn, **parameters},
            source=KMS,
            account=key.account,
            resources=((key.arn, key.account, KEY),),
        ),
        components.store.write() as transaction,
    ):
        yield transaction, await key_named(transaction, components.config, key.arn, _now(components))
