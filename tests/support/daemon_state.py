"""What a daemon has opened, what it left behind, and how to wait for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

from kmsd.app import open_components, open_token, token_settings
from kmsd.config import settings as configuration
from kmsd.custody import encryption
from kmsd.custody.provisioning import SENTINEL
from kmsd.database import open_store
from kmsd.jobs import reconcile
from kmsd.jobs.scheduler import LEASE
from kmsd.ports import Tokens
from tests.support.daemon import Daemon

_HALVES = (
    "SELECT hex(object_id), owner, status FROM token_object LEFT JOIN material ON material.material_id = object_id "
    "LEFT JOIN wrapped_material ON wrapped_material.material_id = object_id WHERE custody = 'wrapped' "
    "AND (status <> 'ready' OR key_id IS NULL OR content IS NULL)"
)
"""Wrapped material that is not whole, or belongs to no key."""


def opened(daemon: Daemon) -> int:
    """How many logins to the token have been completed."""
    return daemon.log().count('"event": "token_open"')


async def leftovers(daemon: Daemon) -> dict[str, list[str]]:
    """What a reconcile finds that has nobody, once an earlier one has settled what it could."""
    found: dict[str, list[str]] = {}
    async with open_components(configuration.load(daemon.config), "test") as components:
        for _ in range(2):
            report = await reconcile.run_once(components.store, components.token, datetime.now(UTC))
        for kind in reconcile.ReconcileReport.__slots__:
            if getattr(report, kind):
                found[kind] = [str(item) for item in getattr(report, kind)]
        rows = await (await components.store.read()).token_objects()
        if unsettled := [f"{row.owner} {row.status}" for row in rows if row.status != "ready"]:
            found["rows"] = unsettled
    with closing(sqlite3.connect(daemon.data / "kmsd.sqlite")) as database:
        if halves := [str(row) for row in database.execute(_HALVES)]:
            found["halves"] = halves
    return found


async def cold_blobs(daemon: Daemon, key_id: str, count: int) -> list[bytes]:
    """Blobs of one key of a stopped daemon, each with a nonce prefix of its own: to decrypt one, a key is derived."""
    config = configuration.load(daemon.config)
    async with open_store(config) as store:
        reader, blobs = await store.read(), []
        key, sentinel = await reader.key(key_id), (await reader.service_keys())[SENTINEL]
        assert key is not None
        async with open_token(token_settings(config, sentinel.object_id)) as token:
            for _ in range(count):
                blobs.append(await encryption.encrypt(Tokens(token), key, datetime.now(UTC), b"cold", {}))
                for material_id in key.materials:
                    token.invalidate(material_id)
        return blobs


def holder_of_jobs(daemon: Daemon) -> int:
    """Process id of the worker that runs the jobs; 0 while nobody does."""
    with closing(sqlite3.connect(f"file:{daemon.data / 'kmsd.sqlite'}?mode=ro", uri=True)) as database:
        row = database.execute("SELECT holder FROM lease WHERE name = ?", [LEASE]).fetchone()
    return 0 if row is None else int(row[0].split(":")[1])
