"""`kmsd custody`: put existing keys into the custody that the configuration names for new key material.

Nothing gets key material out of an object that was made as not extractable, so an object never becomes wrapped
material, nor the other way round. What moves is the key: it is rotated, and its new material is in the other custody.
Earlier material stays where it is and decrypts what it encrypted. Only generated symmetric keys can be rotated so.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kmsd.app import Components, open_components
from kmsd.audit import KEY
from kmsd.cli.commands.check_policies import all_keys
from kmsd.cli.commands.named_keys import key_named
from kmsd.cli.commands.operator_audit import KMSD, administrative_act
from kmsd.cloudwatch_logs.data_keys import HOLD_SECONDS, SERVICE_KEY
from kmsd.config.sections import Config
from kmsd.custody import key_material, rotation, shared_service_keys, token_objects, wrapped_material
from kmsd.database import reseal_logs
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material, RotationType, TokenName
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, WrongUsage

OBJECT, WRAPPED = "object", "wrapped"
"""Custodies, by the words of kmsd.toml."""


class _Immovable(Exception):
    """The key cannot be moved. The text says why, and what can be done instead."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    custody = commands.add_parser("custody", help="where key material is kept").add_subparsers(
        dest="act", required=True
    )
    move = custody.add_parser("move", help="rotate keys to material in the custody that kmsd.toml names")
    move.add_argument("keys", metavar="KEY", nargs="*", help="key id, ARN or alias")
    move.add_argument("--all", action="store_true", help="all keys of all accounts")
    move.add_argument(
        "--service-keys",
        action="store_true",
        help="the daemon's own sealing keys, so that other HSMs can have them, too",
    )
    move.set_defaults(run=move_keys)


async def move_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd custody move`. Prints one line for each key; returns 1 if one cannot be moved."""
    if bool(options.all) + bool(options.keys) + bool(options.service_keys) != 1:
        raise WrongUsage("name keys, or give --all or --service-keys")
    status = 0
    async with open_components(config, "cli") as components:
        if options.service_keys:
            print(await _share_service_keys(components))
            return 0
        async for key in _keys(components, options):
            try:
                print(f"{key.arn}\t{await _move(components, key)}", flush=True)
            except _Immovable as exc:
                status = 1
                print(f"{key.arn}\tcannot be moved: {exc}", flush=True)
    return status


async def _share_service_keys(components: Components) -> str:
    """Make wrapped successors of the service keys, and seal again what is stored. Return what was done."""
    store, now = components.store, components.pipeline.clock.now()
    domain_key = await (await store.read()).current_domain_key(TokenName.MAIN)
    if domain_key is None:
        raise InputRefused("the main token has no current domain key: kmsd domain-key create makes one")
    async with administrative_act(components, "MoveServiceKeys", {}, source=KMSD) as act:
        count = await shared_service_keys.share(store, components.token, domain_key, now, [SERVICE_KEY])
        if count_of_logs := await _resealed_logs(components):
            # A process that has begun before may go on to use a data key of the earlier key.
            await asyncio.sleep(HOLD_SECONDS)
            count += count_of_logs + await _resealed_logs(components)
        act.elements = {"sealedAgain": count}
    return f"the daemon's sealing keys are {WRAPPED}; {count} stored secrets were sealed again"


async def _resealed_logs(components: Components) -> int:
    return await reseal_logs(components.config, await components.store.read(), components.token)


async def _keys(components: Components, options: argparse.Namespace) -> AsyncIterator[Key]:
    config, now = components.config, components.pipeline.clock.now()
    reader = await components.store.read()
    if not options.all:
        for name in options.keys:
            yield await key_named(reader, config, name, now)
        return
    users, roles = await reader.users(), await reader.roles()
    accounts = {config.account, *(user.account for user in users), *(role.account for role in roles)}
    async for key in all_keys(reader, accounts, now):
        yield key


async def _move(components: Components, key: Key) -> str:
    """Rotate a key into the other custody. Return what was done. Raises `_Immovable`, and errors of store and token."""
    wanted, now = await _wanted(components, key), components.pipeline.clock.now()
    present = key.current_material
    if present is not None and custody_of(present) == wanted:
        return f"its key material is {wanted} already"
    _require_rotatable(key, components)
    parameters = {"keyId": key.arn, "custody": wanted}
    resources = ((key.arn, key.account, KEY),)
    created: list[bytes] = []
    async with administrative_act(
        components, "MoveKeyMaterial", parameters, source=KMSD, account=key.account, resources=resources
    ) as act:
        try:
            made = await rotation.create(
                components.store, components.tokens, key, now, RotationType.AUTOMATIC, created=created
            )
            async with components.store.write() as transaction:
                current = await transaction.key(key.key_id)
                if current is None:
                    raise _Immovable("it was deleted meanwhile")
                _require_rotatable(current, components)
                await rotation.make_current(transaction, current, made)
            created.clear()
        finally:
            await token_objects.roll_back_new(components.store, components.tokens, created)
        act.elements = {"keyMaterialId": made.key_material_id}
    earlier = sum(custody_of(material) != wanted for material in key.materials.values())
    return f"new key material is {wanted}; {earlier} of its earlier ones are not, and stay"


async def _wanted(components: Components, key: Key) -> str:
    """Return the custody that new material of the key has. Raises `_Immovable` if none can be made."""
    tokens = components.tokens
    try:
        placement = await key_material.place(tokens, key.spec, key.usage)
        reader = await components.store.read()
        domain_key = await wrapped_material.domain_key_for(reader, tokens, placement.token, key.spec, key.usage)
    except ServiceError as exc:
        raise _Immovable(exc.message or str(exc)) from exc
    return OBJECT if domain_key is None else WRAPPED


def _require_rotatable(key: Key, components: Components) -> None:
    if key.origin is Origin.EXTERNAL:
        raise _Immovable("its material was imported; delete the material, and import it again")
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise _Immovable(f"a key of spec {key.spec} is never rotated; make a new key, and point its alias there")
    state = key.state_at(components.pipeline.clock.now())
    if not Usable.ROTATION.allows(state):
        raise _Immovable(f"it is {state}")


def custody_of(material: Material) -> str:
    """Return the custody of a material, for operators."""
    return OBJECT if material.wrapped is None else WRAPPED
