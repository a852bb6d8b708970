"""Signatures and MACs beside Encrypt, the token alone, and OpenBao's transit engine; in one run, in turn.

    .venv/bin/python -m tests.bench.key_kinds [--rounds 5] [--seconds 3] [--connections 64] [--out FILE]

Two workers. `token alone` is a loop in C in as many processes. Prints as JSON the requests per second (medians of the
rounds), and their ratios; then these beside their aims. wrk makes the load (Debian: apt-get install wrk).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.bench import peers, report, servers, wrk

WORKERS = 2
MESSAGE = base64.b64encode(b"x" * 32).decode()
SOURCE = Path(__file__).with_name("sign_loop.c")
RATIOS = (
    ("Sign ECDSA", "token alone"),
    ("GenerateMac", "Encrypt"),
    ("Verify ECDSA", "Encrypt"),
    ("Sign ECDSA", "OpenBao ECDSA"),
    ("Sign RSA PSS", "OpenBao RSA PSS"),
)
"""Of the first to the second."""


def requests(site: servers.Site) -> tuple[Mapping[str, wrk.Replay], str]:
    """The requests by name, and the id of the key that signs by ECDSA."""
    assert site.daemon is not None
    kms = site.daemon.client()

    def key(spec: str, usage: str) -> str:
        return str(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])

    ecdsa, rsa, mac = (
        key("ECC_NIST_P256", "SIGN_VERIFY"),
        key("RSA_2048", "SIGN_VERIFY"),
        key("HMAC_256", "GENERATE_VERIFY_MAC"),
    )
    digest = {"Message": MESSAGE, "MessageType": "DIGEST"}
    by_ecdsa = {"KeyId": ecdsa, "SigningAlgorithm": "ECDSA_SHA_256", **digest}
    signature = kms.sign(**{**by_ecdsa, "Message": b"x" * 32})["Signature"]
    found: dict[str, wrk.Replay] = {"Encrypt": site.encrypt}
    for name, operation, members in (
        ("GenerateMac", "GenerateMac", {"KeyId": mac, "Message": MESSAGE, "MacAlgorithm": "HMAC_SHA_256"}),
        ("Sign ECDSA", "Sign", by_ecdsa),
        ("Verify ECDSA", "Verify", {**by_ecdsa, "Signature": base64.b64encode(signature).decode()}),
        ("Sign RSA PSS", "Sign", {"KeyId": rsa, "SigningAlgorithm": "RSASSA_PSS_SHA_256", **digest}),
    ):
        found[name] = site.signed(operation, members)
    return found, ecdsa


def object_id(site: servers.Site, key_id: str) -> str:
    """The object of a key, in hexadecimal."""
    assert site.daemon is not None
    told = site.daemon.cli("key", "attest", key_id).stdout.decode()
    return next(line.removeprefix("ObjectId: ") for line in told.splitlines() if line.startswith("ObjectId: "))


async def token_alone(site: servers.Site, program: Path, key: str, seconds: float) -> float:
    """Signatures per second of the C loop, in as many processes as there are workers."""
    assert site.daemon is not None
    place = site.daemon.place
    command = (str(program), str(place.module), place.pin.decode(), key, str(seconds))
    environment = {**os.environ, **place.environment}
    started = []
    for _ in range(WORKERS):
        started.append(await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE))
        await asyncio.sleep(0.2)  # SoftHSM may refuse logins at the same time
    return sum([float((await one.communicate())[0]) for one in started])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--without-peers", action="store_true")
    report.add_options(parser, "key_kinds")
    options, load = parser.parse_args(), os.getloadavg()[0]
    figures: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = folder / "sign_loop"
        subprocess.run(["gcc", "-O2", "-w", "-o", program, SOURCE, "-ldl"], check=True)
        site = stack.enter_context(servers.kmsd(folder / "site", workers=WORKERS))
        replays, ecdsa = requests(site)
        all_replays = dict(replays)
        if not options.without_peers:
            for name, kind in (("OpenBao ECDSA", "ecdsa-p256"), ("OpenBao RSA PSS", "rsa-2048")):
                all_replays[name] = stack.enter_context(peers.openbao_signing(folder / kind, kind))
        key = object_id(site, ecdsa)
        for _ in range(options.rounds):
            for name, replay in all_replays.items():
                done = wrk.run(replay, connections=options.connections, seconds=options.seconds)
                assert not done.errors, (name, done)
                figures[name].append(done.per_second)
            figures["token alone"].append(asyncio.run(token_alone(site, program, key, options.seconds)))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ratios = {f"{one} / {other}": round(medians[one] / medians[other], 3) for one, other in RATIOS if other in medians}
    shown = {name: round(value) for name, value in medians.items()}
    report.finish(options, {"per second": shown, "ratios": ratios}, load, "rounds", "seconds", "connections")


if __name__ == "__main__":
    main()
