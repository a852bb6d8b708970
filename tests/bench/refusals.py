"""What a refused request costs against an accepted one, and what a flood of them writes.

    .venv/bin/python -m tests.bench.refusals [--rounds 3] [--seconds 3] [--connections 8]

One worker; Encrypt that is accepted, the same with a forged signature, with an access key of nobody's, and with none at
all, in turn. Prints as JSON the worker's processor time for each request in microseconds (medians of the rounds),
requests per second, and the bytes that the trail grew by in a second of it. wrk makes the load (Debian: apt-get install
wrk).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tests.bench import servers, wrk


def forms(encrypt: wrk.Replay) -> dict[str, wrk.Replay]:
    """The requests by name."""
    signed = encrypt.headers["Authorization"]
    forged = re.sub(r"Signature=.{8}", "Signature=00000000", signed)
    unknown = re.sub(r"Credential=[^/]+", "Credential=AKIA" + "X" * 16, signed)
    return {
        "accepted": encrypt,
        "forged signature": replace(encrypt, headers={**encrypt.headers, "Authorization": forged}),
        "unknown access key": replace(encrypt, headers={**encrypt.headers, "Authorization": unknown}),
        "no signature": replace(
            encrypt, headers={name: value for name, value in encrypt.headers.items() if name != "Authorization"}
        ),
    }


def size_of(folder: Path) -> int:
    """Bytes of all files there."""
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    figures: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, servers.kmsd(Path(folder) / "site", workers=1) as site:
        assert site.daemon is not None
        trail = site.daemon.data / "audit"
        for _ in range(options.rounds):
            for name, replay in forms(site.encrypt).items():
                before, written, begun = site.cpu_seconds(), size_of(trail), time.monotonic()
                done = wrk.run(replay, connections=options.connections, seconds=options.seconds)
                time.sleep(1.2)  # what was counted is written once a second
                took = time.monotonic() - begun
                count = done.per_second * options.seconds
                figures[name]["cpu us"].append(1e6 * (site.cpu_seconds() - before) / count)
                figures[name]["per second"].append(done.per_second)
                figures[name]["trail bytes per second"].append((size_of(trail) - written) / took)
    shown = {
        name: {kind: round(statistics.median(values), 1) for kind, values in kinds.items()}
        for name, kinds in figures.items()
    }
    print(json.dumps({"load average": os.getloadavg(), **shown}, indent=1))


if __name__ == "__main__":
    main()
