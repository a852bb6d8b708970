"""Wrapped material beside token objects: creation, use of many keys, and a database of a million of them.

    .venv/bin/python -m tests.bench.wrapped_custody [--rounds 5] [--cold 100000] [--full 1000000] [--out FILE]

Two workers, SoftHSM2. Three daemons in one run, in turn: token objects, wrapped material, and wrapped material in a
full database. Of the full one, `--cold` keys are real; the rest are rows that nobody uses. Prints as JSON the figures
and their ratios, then these beside their aims. wrk makes the load (Debian: apt-get install wrk).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.authz.lockout import default_key_policy
from kmsd.custody import key_material
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Algorithm, Material, MaterialIdentity, MaterialStatus, TokenName
from tests.bench import report, servers, wrk
from tests.bench.scale import PLACE, Caller
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, provisioned

HELD = 1000
"""Keys in rotation that all stay unwrapped."""
CLIENTS = 16
"""Connections that create keys."""
SAMPLES = 200
WARM_UP = 20
"""Calls of each kind before the samples."""
LIMITS = "[limits]\nkeys_per_account = 10_000_000\n"
POLICY = default_key_policy(ACCOUNT, "aws")
KIND = KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT


@contextmanager
def daemon_of(folder: Path, custody: str) -> Iterator[Daemon]:
    """A daemon whose new material is kept that way, not started."""
    folder.mkdir()
    with provisioned(folder, workers=2, custody=custody, extra=LIMITS) as daemon:
        yield daemon


def a_key(key_id: str, material: Material | None) -> Key:
    """An enabled key of the benchmark's account."""
    arn, now = PLACE.key(ACCOUNT, key_id), datetime.now(UTC)
    return Key(key_id, ACCOUNT, arn, "", Origin.AWS_KMS, KeyState.ENABLED, POLICY, now, material)


async def add_real(daemon: Daemon, count: int) -> list[str]:
    """Keys with wrapped material of the token, straight into the store. Return their ids."""
    store, made = SqliteStore(daemon.data / "kmsd.sqlite"), []
    domain_key = await (await store.read()).current_domain_key(TokenName.MAIN)
    assert domain_key is not None
    with servers.changed(daemon.place.environment):
        token = await Pkcs11Token.open(daemon.place.settings(inline="always"))
    try:
        for start in range(0, count, 1000):
            keys = [await _wrapped(token, domain_key) for _ in range(min(1000, count - start))]
            async with store.write() as transaction:
                for key in keys:
                    assert key.current_material is not None
                    await transaction.insert_key(key)
                    await key_material.add(transaction, key.key_id, key.current_material)
            made += [key.key_id for key in keys]
    finally:
        await token.close()
        await store.close()
    return made


async def _wrapped(token: Pkcs11Token, domain_key: DomainKey) -> Key:
    key_id = str(uuid.uuid4())
    identity = MaterialIdentity(key_id, secrets.token_bytes(16), *KIND, Algorithm.XAES_256_GCM, is_imported=False)
    form = await token.custody.generate(identity, domain_key)
    now = datetime.now(UTC)
    return a_key(key_id, Material(identity.material_id, identity.algorithm, MaterialStatus.READY, now, wrapped=form))


def add_rows(daemon: Daemon, count: int) -> None:
    """Keys whose wrapped material is random bytes of the right length."""
    connection = sqlite3.connect(daemon.data / "kmsd.sqlite", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    (domain_key,) = connection.execute("SELECT domain_key_id FROM domain_key WHERE state = 'current'").fetchone()
    now = row_mapping.micros(datetime.now(UTC))
    key_marks = ", ".join("?" * len(row_mapping.KEY_COLUMNS.split(",")))
    for start in range(0, count, 10_000):
        rows = [(str(uuid.uuid4()), secrets.token_bytes(16)) for _ in range(min(10_000, count - start))]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO token_object (object_id, owner, status, created_at, token, custody) "
            "VALUES (?, ?, 'ready', ?, 'main', 'wrapped')",
            [(material_id, f"key:{key_id}", now) for key_id, material_id in rows],
        )
        connection.executemany(
            f"INSERT INTO key ({row_mapping.KEY_COLUMNS}) VALUES ({key_marks})",  # noqa: S608 (a constant)
            [_row_of(key_id, material_id) for key_id, material_id in rows],
        )
        connection.executemany(
            "INSERT INTO material (material_id, key_id, algorithm, created_at) VALUES (?, ?, 1, ?)",
            [(material_id, key_id, now) for key_id, material_id in rows],
        )
        connection.executemany(
            "INSERT INTO wrapped_material (material_id, domain_key_id, mechanism, content, mac) "
            "VALUES (?, ?, 8457, ?, ?)",
            [(material_id, domain_key, secrets.token_bytes(40), secrets.token_bytes(16)) for _, material_id in rows],
        )
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _row_of(key_id: str, material_id: bytes) -> tuple[object, ...]:
    return row_mapping.key_values(
        a_key(key_id, Material(material_id, Algorithm.XAES_256_GCM, MaterialStatus.READY, datetime.now(UTC)))
    )


def created_per_second(daemon: Daemon, seconds: float) -> float:
    """CreateKey with several clients."""
    creation = wrk.signed(daemon.endpoint, daemon.admin, "CreateKey", {})
    done = wrk.run([creation], connections=CLIENTS, seconds=seconds)
    assert not done.errors, done
    return done.per_second


def replays_of(daemon: Daemon, keys: Sequence[str]) -> list[wrk.Replay]:
    """Encrypt with each of the keys."""
    plaintext = servers.PLAINTEXT
    return [
        wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", {"KeyId": key, "Plaintext": plaintext}) for key in keys
    ]


def hold(replays: Sequence[wrk.Replay], seconds: float) -> None:
    """Let both workers hold every key, also on a busy host. After a restart none is held.

    Either worker gets a request: of sixteen for each key, both have had one.
    """
    left = 16.0 * len(replays)
    while left > 0:
        left -= seconds * wrk.run(replays, connections=64, seconds=seconds).per_second


def milliseconds(daemons: Mapping[str, Daemon], key_ids: Mapping[str, str]) -> dict[str, float]:
    """Median time of each operation at one connection, by operation and daemon.

    The daemons are asked in turn, and each sample begins with another one. A daemon that was asked last, or has just
    been under load, has warmer caches: that alone made a quarter of a millisecond's call.
    """
    callers = {name: Caller(daemons[name]) for name in key_ids}
    times: defaultdict[str, list[float]] = defaultdict(list)
    for sample in range(-WARM_UP, SAMPLES):
        for name in sorted(key_ids, reverse=bool(sample % 2)):
            key = {"KeyId": key_ids[name]}
            for operation, members in (
                ("DescribeKey", key),
                ("Encrypt", {**key, "Plaintext": servers.PLAINTEXT}),
                ("CreateKey", {}),
            ):
                took, _ = callers[name].call(operation, **members)
                if sample >= 0:
                    times[f"{operation} ms {name}"].append(1e3 * took)
    return {what: statistics.median(of) for what, of in times.items()}


def restart(daemon: Daemon) -> tuple[float, float]:
    """Seconds of a start, and MiB of a worker after one request."""
    daemon.stop()
    began = time.perf_counter()
    daemon.start()
    took = time.perf_counter() - began
    return took, servers.proportional_size(daemon.workers()) / len(daemon.workers())


def cold(daemon: Daemon, keys: Sequence[str], seconds: float) -> dict[str, float]:
    """Encrypt over so many keys in rotation that nearly every one is unwrapped for it."""
    replays = replays_of(daemon, keys)
    site = servers.Site(daemon.endpoint, replays[0], daemon.workers())
    before = site.cpu_seconds()
    done = wrk.run(replays, connections=8, seconds=seconds)
    assert not done.errors, done
    cpu = (site.cpu_seconds() - before) / (done.per_second * seconds)
    return {"per second": round(done.per_second), "p50 ms": done.p50 / 1e3, "CPU ms each": round(1e3 * cpu, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--cold", type=int, default=100_000)
    parser.add_argument("--full", type=int, default=1_000_000)
    report.add_options(parser, "wrapped_custody")
    options, load = parser.parse_args(), os.getloadavg()[0]
    figures: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds = {"object": "object", "wrapped": "wrapped", "full": "wrapped"}
        daemons = {name: stack.enter_context(daemon_of(folder / name, kind)) for name, kind in kinds.items()}
        for daemon in daemons.values():
            daemon.start()
        keys = {name: [_new_key(daemon) for _ in range(HELD)] for name, daemon in daemons.items() if name != "full"}
        daemons["full"].stop()
        cold_keys = asyncio.run(add_real(daemons["full"], options.cold))
        add_rows(daemons["full"], options.full - options.cold)
        daemons["full"].start()
        held = {name: replays_of(daemons[name], of) for name, of in keys.items()}
        for _ in range(options.rounds):
            for name in keys:
                hold(held[name], options.seconds)
                done = wrk.run(held[name], connections=64, seconds=options.seconds)
                assert not done.errors, (name, done)
                figures[f"Encrypt held {name}"].append(done.per_second)
                figures[f"CreateKey {name}"].append(created_per_second(daemons[name], options.seconds))
            measured = {"wrapped": keys["wrapped"][0], "full": cold_keys[0]}
            for what, took in milliseconds(daemons, measured).items():
                figures[what].append(took)
            daemons["object"].stop()
            daemons["object"].start()
            for name in measured:
                for what, value in zip(("start s", "worker MiB"), restart(daemons[name]), strict=True):
                    figures[f"{what} {name}"].append(value)
        cold_figures = cold(daemons["full"], cold_keys, 10 * options.seconds)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    found = {**_shown(medians), "cold": cold_figures}
    report.finish(options, found, load, "rounds", "seconds", "cold", "full")


def _new_key(daemon: Daemon) -> str:
    return str(Caller(daemon).call("CreateKey")[1]["KeyMetadata"]["KeyId"])


def _shown(medians: dict[str, float]) -> dict[str, object]:
    ratios = {
        "CreateKey wrapped / object": medians["CreateKey wrapped"] / medians["CreateKey object"],
        "Encrypt held wrapped / object": (medians["Encrypt held wrapped"] / medians["Encrypt held object"]),
        **{
            f"{what} full / wrapped": medians[f"{what} full"] / medians[f"{what} wrapped"]
            for what in ("start s", "worker MiB", "DescribeKey ms", "Encrypt ms", "CreateKey ms")
        },
    }
    return {
        "figures": {name: round(value, 3) for name, value in medians.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }


if __name__ == "__main__":
    main()
