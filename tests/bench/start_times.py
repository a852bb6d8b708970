"""How long a start takes, with few keys and with many.

    .venv/bin/python -m tests.bench.start_times [--starts 10] [--workers 2] [--keys 0 1000]

Prints as JSON, for each number of keys, seconds from the command to the first answer (`/readyz` says yes) and to the
moment in which all workers serve, and the processor time of parent and workers until then: median, least and most; and
the load average, for all of them depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import servers
from tests.support.daemon import Daemon, provisioned


def cpu_seconds(daemon: Daemon) -> float:
    """Of the parent and everything beneath it."""
    assert daemon.process is not None
    left, found = [daemon.process.pid], []
    while left:
        pid = left.pop()
        found.append(pid)
        left += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return servers.Site("", servers.wrk.Replay("", {}, b""), found).cpu_seconds()


def start(daemon: Daemon) -> tuple[float, float, float]:
    """Seconds to the first answer, to all workers, and of processor time. It is stopped afterwards."""
    served, begun = daemon.log().count(servers.SERVING), time.perf_counter()
    daemon.start(ready=False)
    assert daemon.process is not None
    while daemon.get("/readyz")[0] != 200:
        assert daemon.process.poll() is None, daemon.log()
        time.sleep(0.002)
    answered = time.perf_counter() - begun
    servers.wait_for_log(daemon, served)
    all_serve, cpu = time.perf_counter() - begun, cpu_seconds(daemon)
    daemon.stop()
    return answered, all_serve, cpu


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keys", type=int, nargs="+", default=[0, 1000])
    options = parser.parse_args()
    servers.make_bytecode()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=options.workers) as daemon:
        made = 0
        for keys in sorted(options.keys):
            daemon.start()
            kms = daemon.client()
            while made < keys:
                kms.create_key()
                made += 1
            kms.close()
            daemon.stop()
            load = os.getloadavg()[0]
            answered, serving, cpu = zip(*(start(daemon) for _ in range(options.starts)), strict=True)
            shown = {"first answer": spread(answered), "all workers": spread(serving), "cpu": spread(cpu)}
            report[f"{keys} keys"] = {"load average before": round(load, 1), **shown}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
