"""`kmsd migrate --to`: move everything from SQLite to PostgreSQL, or back, and compare each row."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.adapters.postgres.settings import DatabaseUrl
from kmsd.adapters.sql.database import Database
from kmsd.adapters.sql.tables import count, move
from kmsd.app import (
    SystemClock,
    audit_signer,
    open_token,
    open_trail,
    set_module_environment,
    token_settings,
    trail_node,
)
from kmsd.backup import install
from kmsd.backup.database import fill_in
from kmsd.cli.commands.operator_audit import KMSD, recorded_act
from kmsd.cli.progress import shown
from kmsd.cloudwatch_logs import copying
from kmsd.cloudwatch_logs.ports import LogStore
from kmsd.config.instance_lock import acquire_instance_lock
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.database import database_of, open_segments
from kmsd.exit_codes import ExistsAlready, InputRefused

SQLITE = "sqlite"
"""Value of `--to` that names the file in the data folder."""


async def run(config: Config, to: str) -> int:
    """Move the database to a PostgreSQL URL, or to `SQLITE`. The daemon must not run.

    On return `to` has everything, the trail says so, and the old database is refused. If this raises, nothing has
    changed.
    Raises `ConfigError`, `InputRefused`, `ExistsAlready`, `StoreUnavailable`, `TokenError`, `AuditUnavailable`.
    """
    target_config = _config_of_target(config, to)
    source, target = database_of(config), database_of(target_config)
    with acquire_instance_lock(config):
        await _require_ready(config, source, target)
        set_module_environment(config)
        async with source.open() as store, open_token(token_settings(config, None)) as token:
            clock = SystemClock()
            sink = await open_trail(config, "cli", await audit_signer(store, token), clock)
            try:
                parameters = {"from": str(source), "to": str(target)}
                async with recorded_act(config, sink, clock, "MoveDatabase", parameters, source=KMSD) as act:
                    counts = await _move(config, target_config, source, store)
                    act.elements = {"rows": sum(counts.values()), "keys": counts["key"]}
            finally:
                await sink.close()
        retired = await _retire(config, source)
    print(f"moved and compared {sum(counts.values())} rows of {len(counts)} tables, {counts['key']} keys")
    print(retired)
    print(f'now set [store] url = "{target_config.store.url}" in kmsd.toml, and start the daemon')
    return 0


def _config_of_target(config: Config, to: str) -> Config:
    """Return the configuration with the database `to`. Raises `InputRefused`."""
    url = "" if to == SQLITE else to
    if url:
        try:
            DatabaseUrl.parse(url)
        except ValueError as exc:
            raise InputRefused(f"--to: {exc}") from exc
    if bool(url) == bool(config.store.url):
        raise InputRefused(
            "the database is PostgreSQL already: its own tools move it to another server"
            if url
            else "the database is SQLite already"
        )
    return replace(config, store=replace(config.store, url=url))


async def _require_ready(config: Config, source: Database, target: Database) -> None:
    """Raise `ConfigError` or `ExistsAlready` unless all can be moved."""
    if await source.schema() != source.newest():
        raise ConfigError(f"{source} is of an older release: run `kmsd migrate` first")
    if await target.exists():
        raise ExistsAlready(f"{target} has tables of kmsd already: a move needs an empty database")
    if config.store.url:
        if config.logs_dir.is_dir() and any(config.logs_dir.iterdir()):
            raise ExistsAlready(f"{config.logs_dir} holds log events: move it away first")
        async with source.open() as store:
            reader = await store.read()
            others = [node.name for node in await reader.nodes()]
        if reader.hsm:
            raise ConfigError(
                f"this node uses the HSM {reader.hsm}, and SQLite knows one HSM, that of the first node: move the "
                "database on a node of that one"
            )
        if len(others) > 1:
            raise ConfigError(
                f"the database has {len(others)} nodes, SQLite has one: remove the others by `kmsd node remove`"
            )


async def _move(config: Config, target_config: Config, source: Database, store: LogStore) -> dict[str, int]:
    """Copy everything, and compare it. What a daemon could mistake for all of it comes last."""
    target, reader, segments = database_of(target_config), await store.read(), open_segments(config, store)
    try:
        if not target_config.store.url:
            files = open_segments(target_config, store)
            await copying.copy(reader, segments, files, SystemClock().now())
            await files.close()
        async with source.tables() as tables, target.creating() as empty:
            with shown("moving", await count(tables), "rows") as advance:
                counts = await move(tables, empty, trail_node(config).node_id, advance)
        if target_config.store.url:
            await fill_in(target_config, reader, segments)
    finally:
        await segments.close()
    return counts


async def _retire(config: Config, source: Database) -> str:
    """Make the old database and the old log segments unusable. Return what has become of them."""
    retired = await source.retire()
    if not config.store.url and config.logs_dir.exists():
        retired += (
            f", and the log events are in {install.set_aside([config.logs_dir], config.data_dir, SystemClock().now())}"
        )
    return retired
