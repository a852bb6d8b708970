"""`kmsd check`: check that everything exists, fits and is safe. One line each; the exit status is for monitoring."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Any

from kmsd import __version__
from kmsd.app import SystemClock
from kmsd.cli.commands import (
    check_cbom,
    check_clock,
    check_files,
    check_host,
    check_issuers,
    check_nodes,
    check_policies,
    check_tls,
    check_token,
    check_unit,
)
from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, Finding, as_json, as_text, status_of
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.database import database_of, open_store
from kmsd.ports import StoreError

WITHOUT_LOGS = "CloudWatch Logs, the copy of the audit trail in /kmsd/audit, GetKeyLastUsage"
EXPLANATION = """exit status: 0 all is well; 1 the operator should act; 2 something does not work or is not safe (as
Nagios reads them); 64 the command line is wrong; 78 the configuration cannot be read. Each run
offers the PIN once: for monitoring every few minutes take --no-token, and ask the daemon itself (GET /readyz), which is
logged in."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "check", help="check configuration, host, token, database, policies", epilog=EXPLANATION
    )
    command.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    command.add_argument(
        "--cbom", action="store_true", help="print only which algorithms are used, as a CycloneDX CBOM; always status 0"
    )
    command.add_argument("--no-token", action="store_true", help="leave the token alone: no PIN is offered")
    command.set_defaults(run=run, beforehand=check_unit.look_as_root, needs_pin=False)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Print the findings. Return 0, 1 or 2."""
    if options.cbom:
        print(await check_cbom.document(config, SystemClock().now()))
        return 0
    findings = [finding async for finding in _findings(config, options)]
    print(as_json(findings) if options.json else as_text(findings))
    return status_of(findings)


async def _findings(config: Config, options: argparse.Namespace) -> AsyncIterator[Finding]:
    yield Finding(OK, "version", f"kmsd {__version__}")
    yield Finding(OK, "configuration", "configuration")
    now = SystemClock().now()
    for finding in (*check_files.findings(config, options.config), *options.seen, *check_host.findings()):
        yield finding
    for finding in check_tls.findings(config, now):
        yield finding
    async for finding in _database(config):
        yield finding
    if not options.no_token:
        async for finding in check_token.findings(config):
            yield finding
    async for finding in check_issuers.findings(config):
        yield finding
    async for finding in _policies(config):
        yield finding


async def _database(config: Config) -> AsyncIterator[Finding]:
    """Yield the findings on a PostgreSQL. SQLite's file is among the files."""
    if not config.store.url:
        return
    try:
        database = database_of(config)
        yield Finding(OK, "database", f"PostgreSQL at {database}, schema version {await database.schema()}")
        for problem in await database.problems():
            yield Finding(FAIL, "database", problem)
    except (ConfigError, StoreError) as exc:
        yield Finding(FAIL, "database", f"{type(exc).__name__}: {exc}")
    yield Finding(NOTE, "logs", f"not offered while the database is PostgreSQL: {WITHOUT_LOGS}")


async def _policies(config: Config) -> AsyncIterator[Finding]:
    try:
        async with open_store(config) as store:
            async for finding in check_nodes.findings(config, await store.read()):
                yield finding
            async for finding in check_clock.findings(await store.read()):
                yield finding
            async for finding in check_policies.findings(await store.read(), config, SystemClock().now()):
                yield finding
    except (ConfigError, StoreError) as exc:
        yield Finding(FAIL, "database", f"{type(exc).__name__}: {exc}")
