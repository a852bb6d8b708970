"""What kmsd costs, side by side with the bare server and with its peers; every row of docs/performance.md.

    .venv/bin/python -m tests.bench.table [--rounds 5] [--seconds 3] [--out results.json] [row ...]

Daemons run with two workers and everything on. Rows: see `ROWS`. At its end it prints one table: aim, measured, last
published. Needs wrk and a C compiler (Debian: wrk, gcc).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench import audit_cost, layers, path_length, peers, report, servers, transport_overhead, turns, wrk
from tests.bench.aims import CONNECTIONS
from tests.bench.results import count_name
from tests.bench.rounds import Taken, interleave
from tests.bench.servers import PLAINTEXT, Site
from tests.support.certificates import self_signed
from tests.support.clients import ACCOUNT

Report = dict[str, Any]


class Bench:
    """A folder, the options, and servers that last until the end of a row."""

    def __init__(self, folder: Path, options: argparse.Namespace, stack: ExitStack) -> None:
        self.folder = folder
        self.rounds: int = options.rounds
        self.seconds: float = options.seconds
        self._stack = stack
        self._number = 0

    def place(self, below: Path | None = None) -> Path:
        """A name that nothing has yet."""
        self._number += 1
        return (below or self.folder) / str(self._number)

    def kmsd(self, **settings: Any) -> Site:
        """A daemon."""
        return self._stack.enter_context(servers.kmsd(self.place(), **settings))

    def flushed(self) -> Site:
        """A daemon whose files lie in memory: what it writes is flushed, and a sync costs nothing."""
        memory = self._stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        return self._stack.enter_context(servers.kmsd(self.place(Path(memory))))

    def ceiling(self, like: Site) -> Site:
        """The bare handler."""
        return self._stack.enter_context(servers.ceiling(like.encrypt))

    def openbao(self, *, audited: bool) -> wrk.Replay:
        """The transit engine."""
        return self._stack.enter_context(peers.openbao(self.place(), audited=audited))

    def moto(self) -> wrk.Replay:
        """The emulator."""
        return self._stack.enter_context(peers.moto(self.place()))

    def run(self, connections: int, **loads: tuple[Site | None, wrk.Replay | list[wrk.Replay]]) -> dict[str, Taken]:
        """Interleaved rounds."""
        return interleave(loads, connections=connections, rounds=self.rounds, seconds=self.seconds)

    def run_briefly(self, connections: int, **loads: tuple[Site | None, wrk.Replay]) -> dict[str, Taken]:
        """Fewer and shorter rounds, for points of a chart that have no aim."""
        return interleave(loads, connections=connections, rounds=min(3, self.rounds), seconds=min(2, self.seconds))


def shown(taken: dict[str, Taken]) -> Report:
    """All figures."""
    return {name: each.shown() for name, each in taken.items()}


def ratio(first: float, second: float) -> float:
    """Rounded."""
    return round(first / second, 3)


# --- Rows ---------------------------------------------------------------------------------------------


def throughput(bench: Bench) -> Report:
    """Encrypt of 32 bytes at 1 to 64 connections, against the ceiling and all peers.

    The counts without an aim are points of the charts, and are measured in fewer rounds, without moto.
    """
    durable, flushed = bench.kmsd(), bench.flushed()
    ceiling = bench.ceiling(durable)
    loads: dict[str, tuple[Site | None, wrk.Replay]] = {
        "durable": (durable, durable.encrypt),
        "flushed": (flushed, flushed.encrypt),
        "ceiling": (ceiling, ceiling.encrypt),
        "openbao": (None, bench.openbao(audited=False)),
        "openbao_audited": (None, bench.openbao(audited=True)),
    }
    moto = (None, bench.moto())
    found: Report = {}
    for connections in reversed(CONNECTIONS):
        is_aimed_at = connections in AIMED_AT
        taken = bench.run(connections, **loads, moto=moto) if is_aimed_at else bench.run_briefly(connections, **loads)
        name = count_name(connections)
        found[name] = shown(taken) | (beside_peers(taken) if is_aimed_at else {})
    return found


AIMED_AT = (64, 8, 1)
"""Connections with aims."""


def beside_peers(taken: dict[str, Taken]) -> Report:
    """The daemons, of the ceiling and of each peer."""
    ours, top = taken["durable"], taken["ceiling"]
    found: Report = {}
    for side in ("durable", "flushed"):
        found[f"CPU {side} / ceiling"] = ratio(taken[side].cpu_per_request, top.cpu_per_request)
        for label, peer in (
            ("ceiling", "ceiling"),
            ("OpenBao", "openbao"),
            ("OpenBao audited", "openbao_audited"),
            ("moto", "moto"),
        ):
            found[f"{side} / {label}"] = ratio(taken[side].per_second, taken[peer].per_second)
    return found | {
        "p50 / OpenBao audited": ratio(ours.p50, taken["openbao_audited"].p50),
        "p99 / ceiling": ratio(ours.p99, top.p99),
        "p99 / OpenBao": ratio(ours.p99, taken["openbao"].p99),
    }


def operations(bench: Bench) -> Report:
    """Other operations, relative to Encrypt of 32 bytes."""
    site = bench.kmsd()
    assert site.daemon is not None
    client = site.daemon.client()
    blob = base64.b64encode(client.encrypt(KeyId=site.key_id, Plaintext=b"x" * 32)["CiphertextBlob"]).decode()
    other = client.create_key()["KeyMetadata"]["KeyId"]
    key = {"KeyId": site.key_id}
    asked: dict[str, tuple[str, dict[str, object]]] = {
        "Decrypt": ("Decrypt", {"CiphertextBlob": blob}),
        "GenerateDataKey": ("GenerateDataKey", {**key, "KeySpec": "AES_256"}),
        "GenerateDataKeyWithoutPlaintext": ("GenerateDataKeyWithoutPlaintext", {**key, "KeySpec": "AES_256"}),
        "ReEncrypt": ("ReEncrypt", {"CiphertextBlob": blob, "DestinationKeyId": other}),
        "DescribeKey": ("DescribeKey", dict(key)),
        "GenerateRandom": ("GenerateRandom", {"NumberOfBytes": 32}),
        "Encrypt 4 KiB": ("Encrypt", {**key, "Plaintext": base64.b64encode(b"x" * 4096).decode()}),
    }
    loads: dict[str, tuple[Site | None, wrk.Replay | list[wrk.Replay]]] = {"Encrypt": (site, site.encrypt)}
    loads |= {name: (site, site.signed(operation, members)) for name, (operation, members) in asked.items()}
    taken = bench.run(64, **loads)
    top = taken["Encrypt"].per_second
    return {**shown(taken), "relative to Encrypt": {name: ratio(each.per_second, top) for name, each in taken.items()}}


def many_keys(bench: Bench) -> Report:
    """A thousand keys in rotation against one of them."""
    site = bench.kmsd()
    assert site.daemon is not None
    client = site.daemon.client()
    keys = [client.create_key()["KeyMetadata"]["KeyId"] for _ in range(1000)]
    many = [site.signed("Encrypt", {"KeyId": each, "Plaintext": PLAINTEXT}) for each in keys]
    taken = bench.run(64, one=(site, many[0]), many=(site, many))
    return {**shown(taken), "many / one": ratio(taken["many"].per_second, taken["one"].per_second)}


@contextmanager
def busy(site: Site) -> Iterator[None]:
    """Somebody creates keys, puts policies and lists grants without pause, until the end of the block."""
    assert site.daemon is not None
    client, over = site.daemon.client(), threading.Event()
    policy = client.get_key_policy(KeyId=site.key_id, PolicyName="default")["Policy"]
    key_id = client.create_key()["KeyMetadata"]["KeyId"]

    def work() -> None:
        while not over.is_set():
            client.create_key()
            client.put_key_policy(KeyId=key_id, PolicyName="default", Policy=policy)
            client.list_grants(KeyId=key_id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def neighbours(bench: Bench) -> Report:
    """p99 of Encrypt at 8 connections beside somebody who changes things without pause."""
    site = bench.kmsd()
    alone, beside = [], []
    for _ in range(bench.rounds):
        alone.append(wrk.run(site.encrypt, connections=8, seconds=bench.seconds))
        with busy(site):
            beside.append(wrk.run(site.encrypt, connections=8, seconds=bench.seconds))
    p99 = [statistics.median(result.p99 for result in results) for results in (alone, beside)]
    return {
        "p99 alone us": p99[0],
        "p99 beside us": p99[1],
        "ratio": ratio(p99[1], p99[0]),
        "errors": sum(result.errors for result in alone + beside),
    }


def slow_token(bench: Bench) -> Report:
    """A token that takes 1 ms for each encryption, against the same shim without delay."""
    slow, quick = bench.kmsd(token_delay=0.001), bench.kmsd(token_delay=0.0)
    taken = bench.run(64, slow=(slow, slow.encrypt), quick=(quick, quick.encrypt))
    return {**shown(taken), "slow / quick": ratio(taken["slow"].per_second, taken["quick"].per_second)}


def https(bench: Bench) -> Report:
    """Kept-alive HTTPS against plain HTTP."""
    bench.folder.mkdir(exist_ok=True)
    encrypted, plain = bench.kmsd(tls=self_signed(bench.folder)), bench.kmsd()
    taken = bench.run(64, https=(encrypted, encrypted.encrypt), http=(plain, plain.encrypt))
    return {**shown(taken), "https / http": ratio(taken["https"].per_second, taken["http"].per_second)}


def growth(bench: Bench) -> Report:
    """A policy of 32 KiB against one of 1 KB; a trail of a million records against one of a thousand."""
    small, large, long = bench.kmsd(), bench.kmsd(), bench.kmsd()
    for site, size in ((small, 1_000), (large, 32_000)):
        assert site.daemon is not None
        site.daemon.client().put_key_policy(KeyId=site.key_id, PolicyName="default", Policy=policy_of(size))
    wrote = 0.0
    while wrote < 1_000_000:
        wrote += wrk.run(long.encrypt, connections=64, seconds=20).per_second * 20
    taken = bench.run(64, small=(small, small.encrypt), large=(large, large.encrypt), long_trail=(long, long.encrypt))
    top = taken["small"].per_second
    return {
        **shown(taken),
        "small / large policy": ratio(top, taken["large"].per_second),
        "short / long trail": ratio(top, taken["long_trail"].per_second),
        "records": round(wrote),
    }


def policy_of(size: int) -> str:
    """A key policy of about so many characters, whose last statement allows the account."""
    statements: list[dict[str, Any]] = []
    root = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
    while len(json.dumps({"Version": "2012-10-17", "Statement": [*statements, root]})) < size:
        user = {"AWS": f"arn:aws:iam::{ACCOUNT}:user/somebody-{len(statements)}"}
        statements.append({"Effect": "Allow", "Principal": user, "Action": "kms:DescribeKey", "Resource": "*"})
    return json.dumps({"Version": "2012-10-17", "Statement": [*statements[:-1], root]})


def memory(bench: Bench) -> Report:
    """Proportional set size of two workers with 1 000 keys, against the ceiling's; and after a million requests."""
    site = bench.kmsd()
    assert site.daemon is not None
    client = site.daemon.client()
    for _ in range(1000):
        client.create_key()
    ceiling = bench.ceiling(site)
    wrk.run(ceiling.encrypt, connections=64, seconds=2)
    done = 0.0
    while done < 10_000:
        done += wrk.run(site.encrypt, connections=64, seconds=1).per_second
    early, whole = site.memory(), site.whole_memory()
    while done < 1_000_000:
        done += wrk.run(site.encrypt, connections=64, seconds=20).per_second * 20
    return {
        "MiB after 10 000": round(early, 1),
        "MiB after 10 000, with parent and zygote": round(whole, 1),
        "MiB after 1 000 000": round(site.memory(), 1),
        "ceiling MiB": round(ceiling.memory(), 1),
        "kmsd / ceiling": ratio(early, ceiling.memory()),
        "late / early": ratio(site.memory(), early),
    }


def budget(bench: Bench) -> Report:
    """What each layer costs, alone and in the whole."""
    places = [bench.place(), bench.place()]
    for place in places:
        place.mkdir(parents=True)
    http = [transport_overhead.measure("kmsd", 20_000, 64, keep=True) for _ in range(bench.rounds)]
    trail = audit_cost.run(places[0], connections=[64], rounds=bench.rounds, seconds=bench.seconds)["64 connections"]
    return {
        **layers.run(places[1]),
        "HTTP": round(statistics.median(http), 1),
        "trail": round(trail["audited CPU us"] - trail["nothing CPU us"], 1),
    }


def path(bench: Bench) -> Report:
    """How long the path of a warm Encrypt is."""
    return path_length.run(bench.place())


def held_up(bench: Bench) -> Report:
    """How late the event loop's beats come, with a token that takes 1 ms and with a quick one."""
    folder = bench.place()
    folder.mkdir(parents=True)
    return turns.measure(folder, bench.seconds)


def starts(bench: Bench) -> Report:
    """A hundred starts of four workers on one token; and how long two workers and the ceiling take to answer."""
    failures, folder = 0, bench.place()
    folder.mkdir()
    with servers.provisioned(folder, workers=4) as daemon:
        for _ in range(100):
            try:
                daemon.start(ready=False)
                servers.wait_for_log(daemon, daemon.log().count(servers.SERVING))
            except AssertionError:
                failures += 1
            with suppress(ProcessLookupError):
                daemon.stop()
    took: dict[str, list[float]] = {"kmsd": [], "ceiling": []}
    site = bench.kmsd()
    daemon = site.daemon
    assert daemon is not None
    for _ in range(max(8, bench.rounds)):
        daemon.stop()
        begun = time.perf_counter()
        daemon.start(ready=False)
        assert daemon.process is not None
        servers.wait_for(f"{daemon.endpoint}/readyz", daemon.process)
        took["kmsd"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with servers.ceiling(site.encrypt):
            took["ceiling"].append(time.perf_counter() - begun)
    middle = {name: round(statistics.median(seconds), 3) for name, seconds in took.items()}
    return {"failures in 100": failures, "seconds": middle, "kmsd / ceiling": ratio(middle["kmsd"], middle["ceiling"])}


ROWS: dict[str, Callable[[Bench], Report]] = {
    one.__name__: one
    for one in (
        throughput,
        operations,
        many_keys,
        neighbours,
        slow_token,
        held_up,
        budget,
        path,
        https,
        growth,
        memory,
        starts,
    )
}


def main() -> None:
    """Run rows, write them as JSON if asked, and print the table of all their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(ROWS))
    options = parser.parse_args()
    servers.make_bytecode()
    results: Report = {}
    for name in options.rows or ROWS:
        load = round(os.getloadavg()[0], 1)
        with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
            figures = ROWS[name](Bench(Path(place), options, stack))
        results[name] = report.row(figures, rounds=options.rounds, seconds=options.seconds, load=load)
        sys.stderr.write(json.dumps({name: figures}, indent=2) + "\n")
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=2))
    print(report.summary(results))


if __name__ == "__main__":
    main()
