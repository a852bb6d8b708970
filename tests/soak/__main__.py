"""Run the daemon for hours under a mixed load and token faults, and see whether anything grows: scripts/soak."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmsd.adapters.pkcs11.return_codes import Ckr
from tests.soak import load
from tests.soak.slope import blocks, slope
from tests.support.daemon import Daemon, free_port
from tests.support.faulty_token import bent_daemon
from tests.support.shim import Function, Shim

MEMORY_LIMIT = 1.0
"""MiB per hour and worker."""
COUNT_LIMIT = 4.0
"""Descriptors, or sessions, per hour."""
SOFTHSM_LEAK = 216
"""Bytes that SoftHSM 2.6.1 does not give back of each session object, and so of each derived key.

Measured over 6,000 derivations in one process. It is the stand-in's own, and is taken off.
"""
WORKERS = 2
FAULTS = (
    (Function.ENCRYPT, Ckr.DEVICE_ERROR),
    (Function.ENCRYPT_INIT, Ckr.SESSION_HANDLE_INVALID),
    (Function.DECRYPT_INIT, Ckr.KEY_HANDLE_INVALID),
    (Function.DECRYPT_INIT, Ckr.OPERATION_ACTIVE),
    (Function.DERIVE_KEY, Ckr.DEVICE_MEMORY),
    (Function.GENERATE_RANDOM, Ckr.GENERAL_ERROR),
    (Function.GET_ATTRIBUTE_VALUE, Ckr.DEVICE_REMOVED),
    (Function.OPEN_SESSION, Ckr.SESSION_COUNT),
)


@dataclass
class Samples:
    """What was measured of each worker: by name, (seconds since the start, value)."""

    own: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    private: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    memory: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    descriptors: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    open: list[tuple[float, float]] = field(default_factory=list)
    """Descriptors of all workers: which of them has how many follows how connections fall to them."""
    sessions: list[tuple[float, float]] = field(default_factory=list)


def sample(daemon: Daemon, shim: Shim, metrics: int, samples: Samples, at: float) -> None:
    """Take one of each."""
    leaked = SOFTHSM_LEAK * shim.calls(Function.DERIVE_KEY) / WORKERS / 2**20
    for pid in daemon.workers():
        # What it has for itself; and its share of all, which changes with the other processes of this host.
        rollup = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
        sizes = {line[0]: int(line[1]) / 1024 for line in rollup}
        private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
        samples.private[str(pid)].append((at, private))
        samples.own[str(pid)].append((at, private - leaked))
        samples.memory[str(pid)].append((at, sizes["Pss:"]))
        samples.descriptors[str(pid)].append((at, len(list(Path(f"/proc/{pid}/fd").iterdir()))))
    samples.open.append((at, sum(points[-1][1] for points in samples.descriptors.values())))
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    total = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("kmsd_token_sessions{"))
    samples.sessions.append((at, total))


def disturb(shim: Shim, chance: random.Random) -> str:
    """A fault that passes."""
    kind = chance.random()
    if kind < 0.1:
        shim.gone(int(Ckr.DEVICE_REMOVED))
        time.sleep(0.5)
        shim.gone(0)
        return "token unplugged for 0.5 s"
    if kind < 0.2:
        shim.delay(Function.ENCRYPT, 0.05)
        time.sleep(0.5)
        shim.delay(Function.ENCRYPT, 0)
        return "token slow for 0.5 s"
    function, rv = chance.choice(FAULTS)
    shim.fail(function, int(rv), times=chance.randrange(1, 4))
    return f"{function.name} {rv.name}"


def outage(shim: Shim, options: argparse.Namespace) -> str:
    """A longer one, in the middle of the warm-up.

    What gathers meanwhile takes more memory at once than all else, which the C library keeps. Faults bring that about
    sooner or later; it is to be over before it counts.
    """
    seconds = min(3.0, options.minutes * 6 * options.warm_up)
    shim.gone(int(Ckr.DEVICE_REMOVED))
    time.sleep(seconds)
    shim.gone(0)
    return "token unplugged for longer, in the warm-up"


def observe(
    daemon: Daemon, shim: Shim, metrics: int, options: argparse.Namespace, over: threading.Event
) -> tuple[Samples, dict[str, int]]:
    """Sample and disturb until `over`."""
    samples, faults = Samples(), defaultdict[str, int](int)
    chance, begun = random.Random(options.seed), time.monotonic()  # noqa: S311 (moments, no secrets)
    fault_at = begun + options.fault_seconds
    outage_at = begun + options.minutes * 60 * options.warm_up / 2
    while not over.wait(options.sample_seconds):
        if time.monotonic() >= outage_at:
            faults[outage(shim, options)] += 1
            outage_at = float("inf")
        sample(daemon, shim, metrics, samples, time.monotonic() - begun)
        if time.monotonic() >= fault_at:
            faults[disturb(shim, chance)] += 1
            fault_at = time.monotonic() + options.fault_seconds
    return samples, dict(faults)


def judged(
    name: str, points: list[tuple[float, float]], limit: float | None, options: argparse.Namespace
) -> dict[str, Any]:
    """The slope of one series after the warm-up, and what to think of it, if there is a limit."""
    warm = options.minutes * 60 * options.warm_up
    steady = [(at, value) for at, value in points if at >= warm]
    found = slope(blocks(steady, options.block_seconds))
    line: dict[str, Any] = {"series": name, "first": points[0][1], "last": points[-1][1], "limit_per_hour": limit}
    if found is None:
        return {**line, "verdict": "too short"}
    shown = {"slope_per_hour": found.estimate, "low": found.low, "high": found.high}
    return {
        **line,
        **{key: round(value, 3) for key, value in shown.items()},
        "verdict": found.verdict(limit) if limit else "",
    }


@dataclass
class Outcome:
    """What a run has left to be judged."""

    answers: load.Answers
    samples: Samples
    faults: dict[str, int]
    took: float
    """Seconds."""
    alive: bool
    """Whether the workers are those of the beginning."""
    derived: int
    verified: bool


def run(folder: Path, options: argparse.Namespace) -> Outcome:
    """Load the daemon and bend its token as long as was asked."""
    metrics, chance = free_port(), random.Random(options.seed)  # noqa: S311 (as above)
    extra = f'[metrics]\naddress = "127.0.0.1:{metrics}"\n'
    with bent_daemon(folder, workers=WORKERS, extra=extra) as (daemon, shim):
        daemon.start()
        work = work_on(daemon, chance)
        workers, over = daemon.workers(), threading.Event()
        seen: list[tuple[Samples, dict[str, int]]] = []
        watching = threading.Thread(target=lambda: seen.append(observe(daemon, shim, metrics, options, over)))
        watching.start()
        begun = time.monotonic()
        try:
            asyncio.run(load.run(work, rate=options.rate, connections=16, seconds=options.minutes * 60))
        finally:
            over.set()
            watching.join(60)
        took = time.monotonic() - begun
        alive, derived = daemon.workers() == workers, shim.calls(Function.DERIVE_KEY)
        daemon.stop()
        verified = daemon.cli("audit", "verify", check=False).returncode == 0
    samples, faults = seen[0]
    return Outcome(work.answers, samples, faults, took, alive, derived, verified)


def work_on(daemon: Daemon, chance: random.Random) -> load.Work:
    """Keys, blobs under them, and a stream of log events."""
    kms, logs = daemon.client(), daemon.client("logs")
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(8)]
    blobs = [
        base64.b64encode(kms.encrypt(KeyId=key, Plaintext=b"soak")["CiphertextBlob"]).decode()
        for key in keys
        for _ in range(25)
    ]
    logs.create_log_group(logGroupName="/soak")
    logs.create_log_stream(logGroupName="/soak", logStreamName="s")
    return load.Work(daemon.endpoint, daemon.admin, keys, blobs, chance)


def soak(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do it; the report."""
    outcome = run(folder, options)
    samples, answers = outcome.samples, outcome.answers
    kinds = (
        ("own MiB", samples.own, MEMORY_LIMIT),
        ("private MiB", samples.private, None),
        ("PSS, MiB,", samples.memory, None),
        ("descriptors", samples.descriptors, None),
    )
    series = [
        judged(f"{kind} of {pid}", points, limit, options)
        for kind, by_worker, limit in kinds
        for pid, points in by_worker.items()
    ]
    series.append(judged("descriptors of all", samples.open, COUNT_LIMIT, options))
    series.append(judged("token sessions", samples.sessions, COUNT_LIMIT, options))
    if options.out is not None:
        drawn = {kind: by_worker for kind, by_worker, _ in kinds}
        options.out.with_suffix(".samples.json").write_text(json.dumps(drawn))
    return {
        "minutes": round(outcome.took / 60, 2),
        "requests": answers.good.total() + answers.errors.total() + answers.wrong.total(),
        "requests_per_second": round((answers.good.total() + answers.errors.total()) / outcome.took, 1),
        "good": dict(answers.good),
        "retryable_errors": dict(answers.errors),
        "wrong": dict(answers.wrong),
        "slowest_seconds": round(answers.slowest, 3),
        "faults": outcome.faults,
        "derived_keys": outcome.derived,
        "series": series,
        "workers_survived": outcome.alive,
        "audit_verified": outcome.verified,
    }


def failures(report: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    growing = [line for line in report["series"] if line["verdict"] == "grows"]
    found = [f"{line['series']} grows by {line['slope_per_hour']}/h" for line in growing]
    if report["wrong"]:
        found.append(f"answers that must not be: {report['wrong']}")
    if not report["workers_survived"]:
        found.append("a worker ended")
    if not report["audit_verified"]:
        found.append("the audit trail does not verify")
    return found


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--fault-seconds", type=float, default=10, help="time between two faults")
    parser.add_argument("--sample-seconds", type=float, default=2)
    parser.add_argument("--block-seconds", type=float, default=20, help="samples of which one median is taken")
    parser.add_argument("--warm-up", type=float, default=0.33, help="part of the time that is not judged")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--out", type=Path, help="a file for the report; the samples go beside it")
    return parser.parse_args(arguments)


def main() -> int:
    """0: nothing grows that is known to; 1: something is wrong."""
    options = options_of()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), options)
    text = json.dumps(report, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n")
    print(text)
    for failure in failures(report):
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures(report) else 0


if __name__ == "__main__":
    sys.exit(main())
