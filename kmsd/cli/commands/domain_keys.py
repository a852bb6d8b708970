"""`kmsd domain-key`: the keys in a token that wrap key material. Key ceremonies are in `domain_key_ceremonies`."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

import msgspec

from kmsd.app import Components, SystemClock, key_ceremony, open_components
from kmsd.backup.create import LAST_BACKUP, last_backup
from kmsd.cli.commands import domain_key_ceremonies, own_hsm
from kmsd.cli.commands.domain_key_survey import Found, Presence, is_domain_key, survey, token_named
from kmsd.cli.commands.listing import add_json, show, time_of
from kmsd.cli.commands.operator_audit import administrative_act
from kmsd.config.sections import Config
from kmsd.custody.wrapped_material import has_several_hsms
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.material import TokenName
from kmsd.exit_codes import CommandError, InputRefused, NotFound
from kmsd.ports import Reader, Transaction

_ID_BYTES = 16


def add_to(commands: Any) -> None:
    """Declare the commands."""
    domain_key = commands.add_parser(
        "domain-key", help="make, hand on, rotate, destroy the keys that wrap key material"
    ).add_subparsers(dest="act", required=True)
    domain_key_ceremonies.add_to(domain_key)
    listing = domain_key.add_parser(
        "list", help="all domain keys: id, token, state, time of creation, age, materials, presence in the token"
    )
    add_json(listing)
    listing.set_defaults(run=list_domain_keys)
    rotate = domain_key.add_parser("rotate", help="wrap new key material under the next domain key")
    domain_key_ceremonies.add_token(rotate)
    rotate.set_defaults(run=rotate_domain_key)
    destroy = domain_key.add_parser("destroy", help="destroy a domain key that wraps nothing any more")
    destroy.add_argument("id", metavar="ID", type=_id, help="as `kmsd domain-key list` shows it")
    destroy.add_argument(
        "--without-backup",
        action="store_true",
        help="although no backup was made since its last material moved to another domain key",
    )
    destroy.add_argument(
        "--unknown", action="store_true", help="one that is in a token, and not in this database: no other uses it"
    )
    domain_key_ceremonies.add_token(destroy)
    destroy.set_defaults(run=destroy_domain_key)


def _id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text} is not hexadecimal") from exc
    if len(found) != _ID_BYTES:
        raise argparse.ArgumentTypeError(f"{text} has not 32 digits")
    return found


async def list_domain_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key list`. Needs the tokens."""
    async with open_components(config, "cli") as components:
        found = await survey(components)
    now = SystemClock().now()
    for one in found:
        show(
            options,
            _line(one, now),
            domain_key_id=one.domain_key_id,
            token=str(one.token),
            state=None if one.row is None else one.row.state.value,
            created_at=None if one.row is None else one.row.created_at,
            materials=one.materials,
            presence=one.presence.value,
        )
    if not found and not options.json:
        print("there is no domain key: kmsd domain-key create makes one")
    return 0


def _line(found: Found, now: datetime) -> str:
    if found.row is None:
        state, created, age = "unknown", "-", "-"
    else:
        state, created = found.row.state.value, time_of(found.row.created_at)
        age = f"{max(0, (now - found.row.created_at).days)} days"
    presence = "-" if state == DomainKeyState.DESTROYED and found.presence is not Presence.PRESENT else found.presence
    shown = f"{found.domain_key_id.hex()}\t{found.token}\t{state}\t{created}\t{age}"
    return f"{shown}\t{found.materials} materials\t{presence}"


async def rotate_domain_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key rotate`: the next domain key becomes current, and the current one retires."""
    name = token_named(config, options.token)
    async with open_components(config, "cli") as components:
        waiting = await _waiting(await components.store.read(), name)
        parameters = {"token": str(name), "domainKeyId": waiting.domain_key_id.hex()}
        async with administrative_act(components, "RotateDomainKey", parameters) as act:
            key_ceremony(config, name).prove(waiting.domain_key_id, waiting.binding_key)
            async with components.store.write() as transaction:
                retired = await _rotate(transaction, waiting, components.pipeline.clock.now())
            act.elements = {"retiring": retired.domain_key_id.hex()} if retired is not None else {}
    print(f"{waiting.domain_key_id.hex()} is current: it wraps new key material of token {name}")
    if retired is not None:
        print(f"{retired.domain_key_id.hex()} is retiring: its key material moves to the current one")
    return 0


async def _waiting(reader: Reader, name: TokenName) -> DomainKey:
    """Return the oldest next domain key that the HSMs of all nodes hold. Raises `InputRefused` if there is none."""
    known = [row for row in await reader.domain_keys() if row.token == name and row.state is DomainKeyState.NEXT]
    if not known:
        raise InputRefused(f"token {name} has no next domain key: kmsd domain-key create makes one")
    lacking = await own_hsm.lacking(reader, [row.domain_key_id for row in known])
    for row in known:
        if not lacking[row.domain_key_id]:
            return row
    newest = known[-1].domain_key_id
    raise InputRefused(
        f"what a domain key wraps must be opened by all HSMs, and {newest.hex()} is not in "
        f"{' and '.join(map(own_hsm.called, lacking[newest]))}. First: kmsd domain-key accept on a node of it; if it "
        "has: kmsd jobs run reconcile there"
    )


async def _rotate(transaction: Transaction, waiting: DomainKey, now: datetime) -> DomainKey | None:
    """Make a next domain key current. Return the one that retires."""
    current = await transaction.current_domain_key(waiting.token)
    if current is not None:
        await transaction.set_domain_key_state(
            current.domain_key_id, DomainKeyState.CURRENT, DomainKeyState.RETIRING, now
        )
    await transaction.set_domain_key_state(waiting.domain_key_id, DomainKeyState.NEXT, DomainKeyState.CURRENT, now)
    return current


async def destroy_domain_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key destroy`: one that wraps nothing, or that no database has."""
    async with open_components(config, "cli") as components:
        rows = await (await components.store.read()).domain_keys()
        row = next((row for row in rows if row.domain_key_id == options.id), None)
        if row is None:
            await _destroy_unknown(components, options)
        else:
            await _destroy_known(components, row, options)
        several = await has_several_hsms(await components.store.read())
    print(f"{options.id.hex()} is destroyed: what it wrapped cannot be opened any more")
    if several:
        print("Other HSMs that hold it destroy it within the hour, or by `kmsd jobs run reconcile` on a node of each")
    return 0


async def _destroy_known(components: Components, row: DomainKey, options: argparse.Namespace) -> None:
    token, last = components.tokens[row.token], _last_backup(components.config)
    parameters = {
        "token": str(row.token),
        "domainKeyId": row.domain_key_id.hex(),
        "state": row.state.value,
        "lastBackupAt": None if last is None else last.isoformat(),
        "withoutBackup": options.without_backup,
    }

    async def destroyable(reader: Reader) -> DomainKeyState:
        found = await _require_unused(reader, row.domain_key_id)
        if not options.without_backup:
            _require_backup(found, last, components.config)
        return found.state

    await destroyable(await components.store.read())
    async with (
        administrative_act(components, "DestroyDomainKey", parameters),
        components.store.write() as transaction,
    ):
        # In the transaction, so that no other process rotates meanwhile. If this one dies after the token has destroyed
        # the object, the state is as before, the list shows it as missing, and the same command completes it.
        state = await destroyable(transaction)
        await token.destroy(row.domain_key_id)
        now = components.pipeline.clock.now()
        await transaction.set_domain_key_state(row.domain_key_id, state, DomainKeyState.DESTROYED, now)


async def _require_unused(reader: Reader, domain_key_id: bytes) -> DomainKey:
    """Return the row of a domain key that wraps nothing and will not. Raises `InputRefused`."""
    row = next(row for row in await reader.domain_keys() if row.domain_key_id == domain_key_id)
    if row.state is DomainKeyState.DESTROYED:
        raise InputRefused(f"{domain_key_id.hex()} is destroyed already")
    if row.state is DomainKeyState.CURRENT:
        raise InputRefused(
            f"{domain_key_id.hex()} is current: it wraps new key material. First: kmsd domain-key rotate"
        )
    materials = (await reader.wrapped_counts()).get(domain_key_id, 0)
    if materials:
        raise InputRefused(
            f"{domain_key_id.hex()} still wraps {materials} key materials, which would be lost. They move to the "
            "current domain key by and by: kmsd domain-key list shows how many are left"
        )
    return row


def _last_backup(config: Config) -> datetime | None:
    """Return the time of the latest backup; None if none is known. PostgreSQL's own are not."""
    if config.store.url:
        return None
    try:
        last = last_backup(config.data_dir)
        return None if last is None else datetime.fromisoformat(last.snapshot_at)
    except (OSError, msgspec.DecodeError, ValueError) as exc:
        raise CommandError(f"{config.data_dir / LAST_BACKUP} cannot be read: {exc}") from exc


def _require_backup(row: DomainKey, last: datetime | None, config: Config) -> None:
    """Raise `InputRefused` if the last backup is from before material left a retiring domain key."""
    if row.state is not DomainKeyState.RETIRING or (last is not None and last > row.changed_at):
        return
    remedy = (
        "a backup by PostgreSQL's tools, then --without-backup"
        if config.store.url
        else "kmsd backup; or --without-backup"
    )
    made = "no backup is known" if last is None else f"the last backup is of {last:%Y-%m-%d %H:%M:%S} UTC"
    raise InputRefused(
        f"{made}, and {row.domain_key_id.hex()} wrapped key material until {row.changed_at:%Y-%m-%d %H:%M:%S} UTC. "
        f"Backups from before that time cannot be opened without it. First: {remedy}"
    )


async def _destroy_unknown(components: Components, options: argparse.Namespace) -> None:
    name = token_named(components.config, options.token)
    token, shown = components.tokens[name], options.id.hex()
    known = await (await components.store.read()).token_object(options.id)
    if known is not None or not await is_domain_key(token, options.id):
        raise NotFound(f"token {name} has no domain key {shown}, and the database none either")
    if not options.unknown:
        raise InputRefused(
            f"the database does not know {shown}. A ceremony that was broken off leaves such a domain key, which wraps "
            "nothing; but another database, or a newer copy of this one, may need it. If none does: --unknown"
        )
    async with administrative_act(components, "DestroyDomainKey", {"token": str(name), "domainKeyId": shown}):
        await token.destroy(options.id)
