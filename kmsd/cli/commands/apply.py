"""`kmsd apply` and `kmsd export`: users, roles, and what belongs to keys, as a file under review."""

from __future__ import annotations

import argparse
import json
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import msgspec

from kmsd.app import SystemClock, arn_scope_of, open_components, quotas_of
from kmsd.authz.lockout import default_key_policy
from kmsd.cli.commands.check_policies import all_keys
from kmsd.cli.commands.operator_audit import administrative_act, reading
from kmsd.cli.identities import principals_plan
from kmsd.cli.identities.change import CREATE, DELETE, UPDATE, Change
from kmsd.cli.identities.document import Document, GrantEntry, KeyEntry, RoleEntry, UserEntry, is_same, parse
from kmsd.cli.identities.keys_plan import KeysPlan, aliases_of, entry_of, named_grants_of
from kmsd.cli.named_files import InputFile
from kmsd.cli.progress import shown
from kmsd.config.sections import Config
from kmsd.daemon.issuers import issuer_claims
from kmsd.domain.key import Key
from kmsd.exit_codes import TryLater
from kmsd.ports import Reader


def add_to(commands: Any) -> None:
    """Declare the commands."""
    apply = commands.add_parser("apply", help="make users, roles, key policies, aliases and grants as a file says")
    apply.add_argument("file", type=InputFile, metavar="FILE", help="TOML; `-` reads standard input")
    apply.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    apply.add_argument(
        "--prune",
        action="store_true",
        help="delete users and roles that the file lacks, and of its keys the aliases and named grants that it lacks",
    )
    apply.set_defaults(run=apply_file)
    export = commands.add_parser("export", help="print the present state as such a file; access keys are not in it")
    export.set_defaults(run=export_file, needs_pin=False)


async def apply_file(config: Config, options: argparse.Namespace) -> int:
    """`kmsd apply`: one transaction, one record for each change. A second run changes nothing."""
    wanted = parse(
        options.file.read_text(),
        str(options.file),
        config.account,
        issuer_claims(config),
        config.limits.policy_bytes,
    )
    if options.dry_run:
        async with reading(config) as reader:
            _show(await _plan(reader, config, wanted, SystemClock().now(), prune=options.prune))
        return 0
    async with open_components(config, "cli") as components:
        now = components.pipeline.clock.now()
        plan = await _plan(await components.store.read(), config, wanted, now, prune=options.prune)
        _show(plan)
        if not plan:
            return 0
        async with AsyncExitStack() as acts:
            for change in plan:
                act = administrative_act(
                    components,
                    change.event_name,
                    change.parameters,
                    source=change.source,
                    account=change.account,
                    resources=change.resources,
                )
                await acts.enter_async_context(act)
            async with components.store.write() as transaction:
                present = await _plan(transaction, config, wanted, now, prune=options.prune)
                if [change.line for change in present] != [change.line for change in plan]:
                    raise TryLater("something was changed at this moment, and nothing was applied: try again")
                with shown("applying", len(plan), "changes") as advance:
                    for change in plan:
                        await change.make(transaction)
                        advance(1)
    return 0


async def _plan(reader: Reader, config: Config, wanted: Document, now: datetime, *, prune: bool) -> list[Change]:
    arns = arn_scope_of(config)
    changes = await principals_plan.plan(reader, wanted, arns, now, prune=prune)
    return [*changes, *await KeysPlan(reader, arns, quotas_of(config), now, prune).of(wanted)]


def _show(plan: list[Change]) -> None:
    for change in plan:
        print(change.line)
    marks = [change.mark for change in plan]
    print(
        f"{marks.count(CREATE)} to create, {marks.count(UPDATE)} to change, {marks.count(DELETE)} to delete", flush=True
    )


async def export_file(config: Config, _: argparse.Namespace) -> int:
    """`kmsd export`: users, roles, and keys that have an alias, in the form of `kmsd apply`."""
    now = SystemClock().now()
    async with reading(config) as reader:
        users, roles = await reader.users(), await reader.roles()
        accounts = {config.account, *(user.account for user in users), *(role.account for role in roles)}
        keys = [await _key_entry(reader, key, config, now) async for key in all_keys(reader, accounts, now)]
    document = Document(
        tuple(
            UserEntry(
                account=_account(one.account, config), name=one.name, policies=dict(one.policies), tags=dict(one.tags)
            )
            for one in users
        ),
        tuple(
            RoleEntry(
                account=_account(one.account, config),
                name=one.name,
                trust=one.trust_policy,
                policies=dict(one.policies),
                max_session_seconds=one.max_session_seconds,
                tags=dict(one.tags),
            )
            for one in roles
        ),
        tuple(key for key in keys if key is not None),
    )
    print(_toml(msgspec.to_builtins(document)), end="")
    return 0


def _account(account: str, config: Config) -> str:
    return "" if account == config.account else account


async def _key_entry(reader: Reader, key: Key, config: Config, now: datetime) -> KeyEntry | None:
    """Return the entry of a key; None for one without alias, which no file can name."""
    names = sorted(await aliases_of(reader, key, now))
    if not names:
        return None
    is_default = is_same(key.policy, default_key_policy(key.account, config.partition))
    grants: list[GrantEntry] = [entry_of(grant) for grant in await named_grants_of(reader, key)]
    return KeyEntry(
        account=_account(key.account, config),
        alias=names[0],
        policy=None if is_default else key.policy,
        aliases=tuple(names[1:]),
        tags=dict(await reader.tags_of(key.key_id)) or None,
        grants=tuple(grants),
    )


def _toml(document: dict[str, Any]) -> str:
    """Return a document of tables in TOML. JSON's strings are TOML's, and policies become readable literals."""
    lines: list[str] = []
    for table, entries in document.items():
        for entry in entries:
            lines += ["", f"[[{table}]]", *_members(entry)]
            for grant in entry.get("grants", ()):
                lines += ["", f"[[{table}.grants]]", *_members(grant)]
    return "\n".join(lines).lstrip("\n") + "\n" if lines else ""


def _members(entry: dict[str, Any]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in entry.items() if name != "grants"]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quoted(name)} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value) if not isinstance(value, str) else _text(value)


def _text(text: str) -> str:
    """Return a string in TOML: literal where that is possible, so that policies stay readable."""
    if "'" in text or not all(character.isprintable() or character in "\t\n" for character in text):
        return _quoted(text)
    return f"'''{text}'''" if "\n" in text else f"'{text}'"


def _quoted(text: str) -> str:
    """Return a basic string of TOML: JSON's escapes, and no DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
