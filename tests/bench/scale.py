"""What a full daemon costs: two daemons side by side, one with 100 keys, one with 105 000 and 50 000 grants on one.

    .venv/bin/python -m tests.bench.scale [--with-material 5000] [--without 100000] [--grants 50000]

Prints medians and ratios as JSON. The empty keys and the grants are written through the store, in batches; the keys
with material are made over the API.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import secrets
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.authz.lockout import default_key_policy
from kmsd.domain.arn import ArnScope
from kmsd.domain.grant import Grant
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_state import KeyState
from tests.support.clients import ACCOUNT, REGION
from tests.support.daemon import Daemon, provisioned

PLACE = ArnScope("aws", REGION)
ROUNDS = 6
SAMPLES = 60


class Caller:
    """Signs beforehand, and times nothing but the request on a kept-alive connection."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        self.signer = SigV4Auth(BotoCredentials(daemon.admin.access_key_id, daemon.admin.secret), "kms", REGION)

    def call(self, operation: str, **members: Any) -> tuple[float, dict[str, Any]]:
        """Seconds and answer."""
        body = json.dumps(members).encode()
        headers = {"X-Amz-Target": f"TrentService.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{self.daemon.endpoint}/", data=body, headers=headers)
        self.signer.add_auth(request)
        began = time.perf_counter()
        self.connection.request("POST", "/", body, dict(request.headers))
        answer = self.connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200:
            raise AssertionError(content)
        return took, json.loads(content) if content else {}


async def fill(daemon: Daemon, keys: int, grants: int, granted: str) -> None:
    """Keys that await import, and grants on one key, straight into the store."""
    store = SqliteStore(daemon.data / "kmsd.sqlite")
    now = datetime.now(UTC)
    policy = default_key_policy(ACCOUNT, "aws")
    for start in range(0, keys, 5000):
        async with store.write() as transaction:
            for _ in range(min(5000, keys - start)):
                key_id = str(uuid.uuid4())
                await transaction.insert_key(
                    Key(
                        key_id,
                        ACCOUNT,
                        PLACE.key(ACCOUNT, key_id),
                        "",
                        Origin.EXTERNAL,
                        KeyState.PENDING_IMPORT,
                        policy,
                        now,
                        None,
                    )
                )
    for start in range(0, grants, 5000):
        async with store.write() as transaction:
            for number in range(start, min(start + 5000, grants)):
                await transaction.insert_grant(
                    Grant(
                        secrets.token_hex(32),
                        granted,
                        None,
                        f"arn:aws:iam::{ACCOUNT}:user/u{number}",
                        None,
                        ("Encrypt",),
                        None,
                        None,
                        ACCOUNT,
                        daemon.admin.arn,
                        now,
                    )
                )
    await store.close()


def prepare(daemon: Daemon, *, with_material: int, without: int, grants: int) -> str:
    """Fill a daemon; the key that is measured."""
    daemon.start()
    key_id = str(Caller(daemon).call("CreateKey")[1]["KeyMetadata"]["KeyId"])

    def create(count: int) -> None:
        caller = Caller(daemon)
        for _ in range(count):
            caller.call("CreateKey")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, [with_material // 4] * 4))
    asyncio.run(fill(daemon, without, grants, key_id))
    return key_id


def restart_seconds(daemon: Daemon) -> float:
    """From exec to the first `/readyz` that says yes."""
    daemon.stop()
    began = time.perf_counter()
    daemon.start()
    return time.perf_counter() - began


def measure(daemons: dict[str, Daemon], keys: dict[str, str]) -> dict[str, dict[str, float]]:
    """Median milliseconds of each operation on each daemon, taken in turn."""
    callers = {name: Caller(daemon) for name, daemon in daemons.items()}
    operations: dict[str, Callable[[str], dict[str, Any]]] = {
        "ListKeys": lambda _: {"Limit": 100},
        "DescribeKey": lambda key_id: {"KeyId": key_id},
        "ListGrants": lambda key_id: {"KeyId": key_id, "Limit": 10},
        "Encrypt": lambda key_id: {"KeyId": key_id, "Plaintext": "eA=="},
        "CreateKey": lambda _: {},
    }
    report: dict[str, dict[str, float]] = {}
    for operation, members in operations.items():
        samples: dict[str, list[float]] = {name: [] for name in daemons}
        for _ in range(ROUNDS):
            for name, caller in callers.items():
                count = SAMPLES // 4 if operation == "CreateKey" else SAMPLES
                samples[name] += [caller.call(operation, **members(keys[name]))[0] for _ in range(count)]
        medians = {name: statistics.median(taken) * 1e3 for name, taken in samples.items()}
        report[operation] = {**medians, "ratio": medians["full"] / medians["small"]}
    return report


def main() -> None:
    """Fill two daemons, measure them in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-material", type=int, default=5000)
    parser.add_argument("--without", type=int, default=100_000)
    parser.add_argument("--grants", type=int, default=50_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        limits = f"[limits]\nkeys_per_account = {options.with_material + options.without + 10_000}\n"
        daemons = {}
        for name in ("small", "full"):
            (folder / name).mkdir()
            daemons[name] = stack.enter_context(provisioned(folder / name, workers=2, extra=limits))
        keys = {
            "small": prepare(daemons["small"], with_material=100, without=0, grants=10),
            "full": prepare(
                daemons["full"], with_material=options.with_material, without=options.without, grants=options.grants
            ),
        }
        starts = {name: min(restart_seconds(daemon) for _ in range(3)) for name, daemon in daemons.items()}
        report = {"start_seconds": starts, **measure(daemons, keys)}
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
