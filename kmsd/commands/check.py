"""`kmsd check`: is everything there, and does it fit; one line each, exit status for monitoring."""

from __future__ import annotations

import argparse
import stat
from collections.abc import AsyncIterator, Iterator
from typing import Any

from kmsd.app import Rooms, open_rooms
from kmsd.config import Config
from kmsd.custody import import_parameters
from kmsd.domain.wrapping import TokenName, WrappingAlgorithm
from kmsd.ports import AuditUnavailable, StoreError, TokenError


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("check", help="check configuration, token, database")
    command.set_defaults(run=run)


async def run(config: Config, _: argparse.Namespace) -> int:
    """Print `ok`, `warn` or `FAIL` lines; status 1 if anything failed."""
    failed = False
    async for verdict, text in _findings(config):
        failed = failed or verdict == "FAIL"
        print(f"{verdict:5}{text}")
    return 1 if failed else 0


async def _findings(config: Config) -> AsyncIterator[tuple[str, str]]:
    yield "ok", "configuration"
    for path in (config.token.pin_file, config.data_dir, config.database):
        yield _mode(path)
    try:
        async with open_rooms(config, "check") as rooms:
            info, capabilities = rooms.token.info, rooms.token.capabilities
            yield "ok", f"token {info.label!r}, serial {info.serial}, {info.manufacturer} {info.model}"
            for mechanism in sorted(capabilities.mechanisms):
                yield "ok", f"mechanism {mechanism}"
            for mechanism, loss in capabilities.lacking:
                yield "warn", f"mechanism {mechanism} is lacking: {loss}"
            if not capabilities.algorithms:
                yield "FAIL", "the token can hold no keys of this API"
            for finding in _import_findings(config, rooms):
                yield finding
            for name, probe in (
                ("token", rooms.token.check),
                ("database", rooms.store.check),
                ("audit", rooms.sink.check),
            ):
                await probe()
                yield "ok", f"{name} works"
            tokens = [token for token in (rooms.token, rooms.import_token) if token is not None]
            malformed = [found for token in tokens for found in await token.list_objects() if found.problem]
            for found in malformed:
                yield "FAIL", f"object {found.object_id.hex()} ({found.kind}): {found.problem}"
            if not malformed:
                yield "ok", "every object has the attributes that its role promises"
    except (StoreError, TokenError, AuditUnavailable) as exc:
        yield "FAIL", f"{type(exc).__name__}: {exc}"


def _import_findings(config: Config, rooms: Rooms) -> Iterator[tuple[str, str]]:
    """How key material may come in, and which ways are lacking, refused or unwise."""
    if config.import_token is not None:
        if rooms.import_token is None:
            yield "FAIL", "the import token is away"
        else:
            info = rooms.import_token.info
            yield "ok", f"import token {info.label!r}, serial {info.serial}, {info.manufacturer} {info.model}"
    offered = import_parameters.offered(rooms.pipeline.world.tokens)
    for algorithm in WrappingAlgorithm:
        name = offered.get(algorithm)
        if algorithm in config.import_.refuse:
            yield "ok", f"wrapping algorithm {algorithm} is refused by the configuration"
        elif name is None:
            yield "warn", f"wrapping algorithm {algorithm} is lacking: GetParametersForImport refuses it"
        elif not algorithm.has_integrity:
            yield "warn", f"wrapping algorithm {algorithm} works, and is weak: refuse it under [import]"
        else:
            where = "in the token" if name is TokenName.MAIN else "through the import token"
            yield "ok", f"wrapping algorithm {algorithm} works {where}"


def _mode(path: Any) -> tuple[str, str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as exc:
        return "FAIL", f"{path}: {exc.strerror}"
    if mode & 0o007:
        return "FAIL", f"{path} is open to everybody (mode {mode:04o})"
    return "ok", f"{path} has mode {mode:04o}"
