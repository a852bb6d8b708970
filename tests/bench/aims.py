"""All figures of docs/performance.md and of `scripts/bench`, with the aim of each, by the tables of the page.

The results hold figures alone: a changed aim is changed here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.figures import Aim, Detail, Figure, at_least, at_most
from tests.bench.results import count_name


def _pair(where: str, first: str, second: str, member: str, unit: str) -> Detail:
    return Detail(f"{where} > {first} > {member}", f"{where} > {second} > {member}", unit)


def _throughput(count: int, side: str, peer: str, aim: Aim) -> Figure:
    """The daemon's throughput of a peer's; `side` is `durable` or `flushed`."""
    where = f"throughput > {count_name(count)}"
    name, key, what = {
        "ceiling": ("ceiling", "the ceiling", "ceiling"),
        "openbao": ("openbao", "OpenBao", "OpenBao"),
        "audited": ("openbao_audited", "OpenBao with its audit device", "OpenBao audited"),
        "moto": ("moto", "moto", "moto"),
    }[peer]
    kept = "durable" if side == "durable" else "flushed and not synced"
    return Figure(
        f"{count_name(count)}, {kept}, of {key}",
        f"{where} > {side} / {what}",
        aim,
        _pair(where, side, name, "per second", "a second"),
    )


_MANY, _ONE = "throughput > 64 connections", "throughput > 1 connection"
ENCRYPT = (
    _throughput(64, "durable", "ceiling", at_least(0.6)),
    _throughput(64, "flushed", "ceiling", at_least(0.5)),
    *(
        Figure(
            f"CPU per request, {side}, of the ceiling's",
            f"{_MANY} > CPU {side} / ceiling",
            at_most(2.0),
            _pair(_MANY, side, "ceiling", "cpu us", "µs"),
        )
        for side in ("durable", "flushed")
    ),
    _throughput(64, "durable", "openbao", at_least(1.8)),
    _throughput(64, "durable", "audited", at_least(2.5)),
    _throughput(64, "durable", "moto", at_least(15)),
    Figure(
        "p99 at 64 connections, of the ceiling's",
        f"{_MANY} > p99 / ceiling",
        at_most(2.5),
        _pair(_MANY, "durable", "ceiling", "p99 us", "µs"),
    ),
    Figure(
        "p99 at 64 connections, of OpenBao's",
        f"{_MANY} > p99 / OpenBao",
        at_most(0.5),
        _pair(_MANY, "durable", "openbao", "p99 us", "µs"),
    ),
    _throughput(8, "durable", "ceiling", at_least(0.4)),
    _throughput(8, "durable", "audited", at_least(1.3)),
    Figure(
        "1 connection: p50, of OpenBao's with its audit device",
        f"{_ONE} > p50 / OpenBao audited",
        at_most(1.4),
        _pair(_ONE, "durable", "openbao_audited", "p50 us", "µs"),
    ),
    Figure(
        "1 000 keys in rotation, of one key",
        "many_keys > many / one",
        at_least(0.9),
        _pair("many_keys", "many", "one", "per second", "a second"),
    ),
    Figure(
        "p99 at 8 connections while another client creates keys and puts policies, of without",
        "neighbours > ratio",
        at_most(2),
        Detail("neighbours > p99 beside us", "neighbours > p99 alone us", "µs"),
    ),
    Figure(
        "a token that takes 1 ms, of the same without delay",
        "slow_token > slow / quick",
        at_least(0.45),
        _pair("slow_token", "slow", "quick", "per second", "a second"),
    ),
    Figure(
        "HTTPS, of plain HTTP",
        "https > https / http",
        at_least(0.75),
        _pair("https", "https", "http", "per second", "a second"),
    ),
    Figure("a policy of 1 KB, of one of 32 KiB", "growth > small / large policy", at_most(1.05)),
    Figure("a trail of some thousand records, of one of a million", "growth > short / long trail", at_most(1.02)),
)
OPERATIONS = tuple(
    Figure(
        label,
        f"operations > relative to Encrypt > {name}",
        at_least(wanted),
        _pair("operations", name, "Encrypt", "per second", "a second"),
    )
    for name, label, wanted in (
        ("Decrypt", "Decrypt", 0.95),
        ("GenerateDataKey", "GenerateDataKey", 0.85),
        ("GenerateDataKeyWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", 0.85),
        ("ReEncrypt", "ReEncrypt", 0.75),
        ("DescribeKey", "DescribeKey", 1.1),
        ("GenerateRandom", "GenerateRandom", 1.1),
        ("Encrypt 4 KiB", "Encrypt of 4 KiB", 0.55),
    )
)
START_AND_MEMORY = (
    Figure("failures in 100 starts of 4 workers at once on one token", "starts > failures in 100", at_most(0)),
    Figure(
        "start of 2 workers until the first response, of the ceiling's",
        "starts > kmsd / ceiling",
        at_most(1.5, " and C_Initialize"),
        Detail("starts > seconds > kmsd", "starts > seconds > ceiling", "s"),
    ),
    Figure(
        "PSS of 2 workers with 1 000 keys, of the ceiling's",
        "memory > kmsd / ceiling",
        at_most(2.5),
        Detail("memory > MiB after 10 000", "memory > ceiling MiB", "MiB"),
    ),
    Figure(
        "the same after 1 000 000 requests, of after 10 000",
        "memory > late / early",
        at_most(1.1),
        Detail("memory > MiB after 1 000 000", "memory > MiB after 10 000", "MiB"),
    ),
)
PATH = (
    Figure("Python calls", "path > calls", at_most(90)),
    Figure("files", "path > files", at_most(30)),
)
KEY_KINDS = tuple(
    Figure(
        label,
        f"key_kinds > ratios > {first} / {second}",
        at_least(wanted),
        Detail(f"key_kinds > per second > {first}", f"key_kinds > per second > {second}", "a second"),
    )
    for label, first, second, wanted in (
        ("GenerateMac, of Encrypt", "GenerateMac", "Encrypt", 0.9),
        ("Verify, ECDSA P-256, of Encrypt", "Verify ECDSA", "Encrypt", 0.6),
        ("Sign, ECDSA P-256, of OpenBao", "Sign ECDSA", "OpenBao ECDSA", 1.0),
        ("Sign, RSA 2048 PSS, of OpenBao", "Sign RSA PSS", "OpenBao RSA PSS", 1.0),
        ("Sign, ECDSA P-256, of the token alone in a loop in C", "Sign ECDSA", "token alone", 0.8),
    )
)


def _databases() -> Iterator[Figure]:
    many, one, ratios = "databases > 64 connections", "databases > 1 connection", "databases > ratios"
    creation = "databases > CreateKey, 16 clients"
    file, server, far = "SQLite", "PostgreSQL", "PostgreSQL, delayed"
    for label, at, aim, detail in (
        ("Encrypt, 64 connections, of SQLite", "throughput", at_least(0.85), (many, server, file, "per second")),
        ("the same with 1 ms, of without", "throughput, delayed", at_least(0.8), (many, far, server, "per second")),
        ("CPU time of the workers for each, of SQLite's", "CPU", at_most(1.15), (many, server, file, "cpu us")),
        ("Encrypt, 1 connection, p50, ms more", "ms more", at_most(0.4), (one, server, file, "p50 us")),
        ("the same with 1 ms, ms more", "ms more, delayed", at_most(1.5), (one, far, server, "p50 us")),
        ("CreateKey, 16 clients, of SQLite", "CreateKey", None, (creation, server, file, "per second")),
        ("the same with 1 ms, of without", "CreateKey, delayed", None, (creation, far, server, "per second")),
    ):
        unit = {"per second": "a second"}.get(detail[3], "µs")
        yield Figure(label, f"{ratios} > {at}", aim, _pair(*detail, unit))


def _full_database() -> Iterator[Figure]:
    for label, what in (
        ("Encrypt", "Encrypt"),
        ("Encrypt, first use of a key in the worker", "Encrypt, not in the cache"),
        ("DescribeKey", "DescribeKey"),
        ("DescribeKey, key not in the worker's cache, rows anywhere in the database", "DescribeKey, not in the cache"),
        ("ListKeys, first 100", "ListKeys, first"),
        ("ListKeys, 100 from the middle", "ListKeys, middle"),
        ("ListKeys, 400 from the middle", "ListKeys, middle, 400"),
        ("ListAliases, 50", "ListAliases"),
        ("ListGrants, 5", "ListGrants"),
        ("ListRetirableGrants, 5", "ListRetirableGrants"),
        ("CreateGrant, on the key with many", "CreateGrant"),
        ("CreateKey", "CreateKey"),
    ):
        where = f"full_database > calls, ms > {what}"
        yield Figure(label, f"{where} > ratio", at_most(1.2), Detail(f"{where} > full", f"{where} > small", "ms"))


def _wrapped() -> Iterator[Figure]:
    row = "wrapped_custody"
    for label, what, first, second, aim, unit in (
        ("CreateKey, 16 connections, of `object`", "CreateKey", "wrapped", "object", at_least(5), "a second"),
        (
            "Encrypt over 1,000 keys, all held, of `object`",
            "Encrypt held",
            "wrapped",
            "object",
            at_least(0.95),
            "a second",
        ),
        ("start with the full database, of with some thousand keys", "start s", "full", "wrapped", at_most(1.2), "s"),
        ("PSS of a worker, likewise", "worker MiB", "full", "wrapped", at_most(1.2), "MiB"),
        ("DescribeKey, likewise", "DescribeKey ms", "full", "wrapped", at_most(1.2), "ms"),
        ("Encrypt under a hot key, likewise", "Encrypt ms", "full", "wrapped", at_most(1.2), "ms"),
        ("CreateKey, likewise", "CreateKey ms", "full", "wrapped", at_most(1.2), "ms"),
    ):
        detail = Detail(f"{row} > figures > {what} {first}", f"{row} > figures > {what} {second}", unit)
        yield Figure(label, f"{row} > ratios > {what} {first} / {second}", aim, detail)
    yield Figure(
        "CPU of the workers for an Encrypt whose key is unwrapped for it",
        f"{row} > cold > CPU ms each",
        at_most(1.0),
        Detail(f"{row} > cold > per second", None, "a second"),
        unit="ms",
    )


BUDGET: dict[str, str] = {
    "HTTP (event loop, system calls, the parser, writing the response)": "budget > HTTP",
    "Signature Version 4: parsing": "budget > alone > reading the signature",
    "Signature Version 4: verification, and looking up the signer": "budget > alone > proving it, and who signed",
    "decoding and validating the request": "budget > alone > decoding and validating",
    "finding the key, authorisation, state": "budget > alone > finding the key, authorising, state",
    "token: session, derived key, AES-GCM": "budget > alone > token: session, derived key, AES-GCM",
    "the rest of the handler": "budget > alone > the handler without it",
    "building the audit record": "budget > alone > building the audit record",
    "encoding the response": "budget > alone > encoding the answer",
    "chaining the record, and a share of a write to the disk": "budget > trail",
    "the encrypted copy of the record (half of it where a second worker does not copy)": "trail_copy > us",
}
"""Layers of one Encrypt, and the places of their microseconds in the results."""

TABLES: dict[str, tuple[Figure, ...]] = {
    "encrypt": ENCRYPT,
    "operations": OPERATIONS,
    "start_and_memory": START_AND_MEMORY,
    "path": PATH,
    "key_kinds": KEY_KINDS,
    "databases": tuple(_databases()),
    "full_database": tuple(_full_database()),
    "wrapped_custody": tuple(_wrapped()),
    "budget": tuple(Figure(label, place, unit="µs") for label, place in BUDGET.items()),
}
"""Figures by the name of their table in the template of the page."""

COHORTS: dict[str, str] = {
    str(calls): f"budget > whole, with its dispatch > {calls} at once" for calls in (1, 4, 8, 16, 32)
}
"""Microseconds of each call, by how many are runnable."""

CONNECTIONS = (1, 4, 8, 16, 32, 64)
SERIES: dict[str, str] = {
    "durable": "kmsd, durable",
    "flushed": "kmsd, flushed",
    "ceiling": "ceiling",
    "openbao": "OpenBao",
    "openbao_audited": "OpenBao, audited",
}
"""Lines of the charts over connections."""
