"""Ids of what the daemon of a test holds: the objects in its tokens, and the wrapped material in its database."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from kmsd.adapters.postgres.access import numbered
from kmsd.adapters.postgres.settings import DatabaseUrl, PostgresSettings
from kmsd.config.sections import Config
from kmsd.custody.token_objects import IMPORTED
from kmsd.domain.material import TokenName
from tests.support.harness import Harness
from tests.support.postgres import connect

_WRAPPED = (
    "SELECT object_id FROM token_object WHERE (custody = 'wrapped' OR object_id IN "
    "(SELECT material_id FROM wrapped_material)) AND token = ? AND owner LIKE ? || '%'"
)
"""Half of it, a row in one of the tables, counts as held."""


def held_ids(harness: Harness) -> set[bytes]:
    """Of everything in a token, or wrapped in one."""
    found: set[bytes] = set()
    for name, token in harness.components.tokens.items():
        reports = harness.run(token.list_objects())
        assert [report for report in reports if report.problem] == []
        found |= {report.object_id for report in reports} | wrapped_ids(harness.config, name)
    return found


def imported_ids(harness: Harness) -> set[bytes]:
    """Of all imported material in the main token, or wrapped in it."""
    reports = harness.run(harness.components.token.list_objects())
    objects = {report.object_id for report in reports if report.imported}
    return objects | wrapped_ids(harness.config, owner=IMPORTED)


def wrapped_ids(config: Config, name: TokenName = TokenName.MAIN, owner: str = "") -> set[bytes]:
    """Of material that is wrapped in a token, of owners with a prefix."""
    if config.store.url:
        return asyncio.run(_in_postgresql(PostgresSettings(DatabaseUrl.parse(config.store.url)), name, owner))
    with closing(sqlite3.connect(f"file:{config.database}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute(_WRAPPED, (name, owner))}


async def _in_postgresql(settings: PostgresSettings, *values: str) -> set[bytes]:
    connection = await connect(settings)
    try:
        return {row[0] for row in await connection.fetch(numbered(_WRAPPED), *values)}
    finally:
        await connection.close()
