"""How long a backup takes under load, what it does to the calls beside it, and how long restoring takes.

.venv/bin/python -m tests.bench.backup [--keys 2000] [--megabytes 200]

Two workers over SoftHSM2, four clients that encrypt without a pause.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, provisioned


def filled(daemon: Daemon, keys: int, megabytes: int) -> str:
    """Keys with aliases, and log events; the id of one key."""
    kms, logs = daemon.client(), daemon.client("logs")
    key_id = ""
    for number in range(keys):
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=f"alias/k{number}", TargetKeyId=key_id)
    logs.create_log_group(logGroupName="app")
    logs.create_log_stream(logGroupName="app", logStreamName="s")
    event = {"timestamp": int(time.time() * 1000)}
    for _ in range(megabytes):
        events = [{**event, "message": os.urandom(50_000).hex()} for _ in range(10)]
        logs.put_log_events(logGroupName="app", logStreamName="s", logEvents=events)
    return key_id


def timed(daemon: Daemon, key_id: str, stop: threading.Event) -> list[float]:
    """Encrypt again and again; how long each took."""
    kms: Any = daemon.client()
    found = []
    while not stop.is_set():
        begun = time.perf_counter()
        kms.encrypt(KeyId=key_id, Plaintext=b"x" * 32)
        found.append(time.perf_counter() - begun)
    return found


def during(daemon: Daemon, key_id: str, act: Any) -> tuple[float, list[float]]:
    """How long `act` takes while four clients encrypt, and how long their calls take."""
    stop, found = threading.Event(), []
    threads = [threading.Thread(target=lambda: found.append(timed(daemon, key_id, stop))) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    act()
    took = time.perf_counter() - begun
    stop.set()
    for thread in threads:
        thread.join()
    return took, sorted(one for some in found for one in some)


def shown(times: list[float]) -> str:
    """Median, 99th percentile, slowest, in milliseconds."""
    chosen = (statistics.median(times), times[int(len(times) * 0.99)], times[-1])
    return "median {:.1f} ms, 99 % {:.1f} ms, slowest {:.1f} ms".format(*(one * 1000 for one in chosen))


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keys", type=int, default=2000)
    options.add_argument("--megabytes", type=int, default=200)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, provisioned(Path(name), workers=2) as daemon:
        folder = Path(name)
        daemon.start()
        key_id = filled(daemon, given.keys, given.megabytes)
        _, alone = during(daemon, key_id, lambda: time.sleep(5))
        took, beside = during(daemon, key_id, lambda: daemon.cli("backup", str(folder / "b.backup")))
        print(f"backup: {took:.1f} s, {(folder / 'b').stat().st_size / 1e6:.0f} MB")
        print(f"Encrypt without: {shown(alone)}\nEncrypt beside:  {shown(beside)}")
        daemon.stop()
        shutil.rmtree(daemon.data)
        begun = time.perf_counter()
        daemon.cli("restore", str(folder / "b.backup"), "--accept-rollback")
        print(f"restore: {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
