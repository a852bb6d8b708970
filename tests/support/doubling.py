"""Growth of the work of parsers and filters when their input doubles; `python -m tests.support.doubling` prints JSON.

Run in a process of its own: what is compared is the CPU time of a process that does nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import operator
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

import kmsd.cloudwatch_logs.operations.put_log_events as logs_put
import kmsd.operations.kms.encrypt as kms_encrypt
import kmsd.operations.sts.assume_role as sts_assume
from kmsd.authz import policy_document
from kmsd.authz.wildcard import Pattern as Wildcard
from kmsd.cloudwatch_logs.events import LogEvent
from kmsd.cloudwatch_logs.filter_pattern.pattern import compile_pattern
from kmsd.cloudwatch_logs.insights.planner import plan
from kmsd.cloudwatch_logs.insights.rows import Record
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.regex import BadRegex, Regex
from kmsd.custody.pagination import Pager
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain import alias, arn, ciphertext_blob, encryption_context, principal
from kmsd.domain.material import Algorithm
from kmsd.domain.policy import PolicyKind
from kmsd.errors import ServiceError
from kmsd.operations.kms import tag_rules
from kmsd.operations.kms.shapes import Tag
from kmsd.ports import NotAuthentic, ServiceKey, Token
from kmsd.wire.protocols import json as shape
from kmsd.wire.protocols import query
from kmsd.wire.sigv4 import canonical
from kmsd.wire.sigv4.claim import RawRequest, parse
from tests.support.sigv4 import CREDENTIAL, HEADERS, NOW, SERVICES

SECONDS = 0.01
"""A case grows until it takes so long, or until its input is as large as it may be."""
SMALLEST, LARGEST = 4_096, 262_144
ROUNDS = 7
REFUSALS = (ServiceError, MalformedQuery, BadRegex, UnicodeEncodeError, ciphertext_blob.MalformedBlob, NotAuthentic)


class Case(NamedTuple):
    """Work on an input that is made in any size."""

    name: str
    make: Callable[[int], Any]
    act: Callable[[Any], Any]


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    """Texts of one part again and again."""
    return lambda size: before + unit * (size // len(unit)) + after


# --- What events, patterns, queries and expressions are made of ---------------------------------------

EVENTS = (
    *("[ ", "[", "]", "[]", '" ', '"', '""', "{", '{"a":', "[1],", "\\", "a ", "a", "ab", "aab "),
    *("é", "\u0130", "\u212a"),
    *("9", "1.", "-", "user=", ",", "\n", "\x00", "%", "\U0001f511", '[ab] "c" '),
)
JSON_EVENTS = {
    "numbers": repeated("1,", '{"a":[', "1]}"),
    "lists": repeated("[],", '{"a":[', "1]}"),
    "objects": repeated('{"a":1},', '{"a":[', "1]}"),
    "digits": repeated("9", '{"a":', "}"),
    "large numbers": repeated("9" * 400 + ",", '{"a":[', "1]}"),
    "text": repeated("ab", '{"a":"', '"}'),
    "escapes": repeated("\\u00e9", '{"a":"', '"}'),
    "members": lambda size: "{" + ",".join(f'"{number}":1' for number in range(size // 10)) + "}",
    "members of one name": repeated('"a":1,', "{", '"b":2}'),
    "deep": lambda size: '{"a":' * (size // 6) + "1" + "}" * (size // 6),
}
PATTERNS = (
    *("[a, b=x]", "[..., a]", "[a, ..., b = %x%]", "{ $.a = *a*b*c || $.b NOT EXISTS }", "a -b ?x"),
    *("{ $.a[*].a = %b% || $.a[*] > 5 }", "%[ab]*a[ab]{5}c%", "%a+b+$%", "%a{0,50}a{0,50}b%"),
)
QUERIES = (
    "fields a.b, @message | sort a desc, @message",
    "parse @message 'a*b*c*' as x, y, z",
    r"parse @message /(?<x>a+)(?<y>\s.*)b/",
    "filter @message like 'aab' or @message like /[ab]*c$/",
    "fields replace(@message, 'a', 'bb') as x, toupper(@message) as y, trim(@message) as z, concat(x, y) as v",
    "stats count(*), max(@message), count_distinct(@message) by @message",
    "filter @message > 5 or abs(@message) = 1 or a.a.a > 3",
    "dedup @message, a",
)
WRITTEN_PATTERNS = (
    *('"', '\\"', "%", "a ", "?a -b ", "-", "(", "%a%", "\n"),
    *("{ (", "{ $.a = 1 || ", "{ $.a", "{ $['", "{ $[", '{ $.a = "\\', "{ $.a = *", "{ $.a = 1" + "1", "{ !"),
    *("[a, ", "[a = 1 || ", "[(", '["', "[a = *", "[..., "),
)
WRITTEN_QUERIES = (
    *(
        "fields a, ",
        "fields a+",
        "fields -",
        "fields (",
        "fields `",
        "fields 'a",
        'fields "\\',
        "fields 9",
        "fields 1.",
    ),
    *("filter a = 1 or ", "filter not ", "filter a in [1, ", "filter a like /\\/", "filter a like /(", "parse '*"),
    *(
        "stats count(*), ",
        "stats count(*) by a, ",
        "sort a, ",
        "limit 1 | ",
        "# \n",
        " ",
        "fields concat(a, ",
        "é",
        "/",
    ),
    *("fields abs(", "fields bin(", "fields 2^", "sort count(*), "),
)
EXPRESSIONS = (
    "(",
    ")",
    "[",
    "a{1,9}",
    "(?:a",
    "(?<x>",
    "|",
    "\\",
    "\\\\",
    "a*",
    ".",
    "(?i)",
    "[a-",
    "é",
    "\\pL",
    "a{9}{",
)


def log_cases() -> Iterator[Case]:
    """Patterns, queries and expressions, written and at work."""
    events = {repr(unit): repeated(unit) for unit in EVENTS} | JSON_EVENTS
    for pattern in PATTERNS:
        yield from (Case(f"{pattern} on {name}", make, compile_pattern(pattern)) for name, make in events.items())
    for text in QUERIES:
        yield from (Case(f"{text} on {name}", make, asking(text)) for name, make in events.items())
    for unit in WRITTEN_PATTERNS:
        head, rest = (unit[:2], unit[2:]) if unit[:2] in ("{ ", "[a") else ("", unit)
        yield Case(
            f"pattern of {unit!r}", repeated(rest or unit, head, {"{ ": " }", "[a": "]"}.get(head, "")), compile_pattern
        )
    for unit in WRITTEN_QUERIES:
        command, _, rest = unit.partition(" ")
        yield Case(f"query of {unit!r}", repeated(rest or unit, f"{command} " if rest else ""), plan)
    yield from (Case(f"expression of {unit!r}", repeated(unit), Regex) for unit in EXPRESSIONS)


def asking(text: str) -> Callable[[str], object]:
    """A query of one event."""
    read = plan(text)

    def ask(message: str) -> object:
        run = read.run(10, multiple_groups=False)
        run.feed(Record(LogEvent(1 << 96, 1, message, 1, b"s"), "s", "1:g"))
        run.end()
        return run.drain()

    return ask


# --- Everything else that reads what strangers write ---------------------------------------------------

STATEMENT = '{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},'
TO_ALL = '"Effect":"Allow","Principal":"*"'
POLICIES = {
    "statements": repeated(STATEMENT, '{"Statement":[', STATEMENT[:-1] + "]}"),
    "actions": repeated('"kms:*",', f'{{"Statement":{{{TO_ALL},"Resource":"*","Action":[', '"a:b"]}}'),
    "stars": repeated("*?", f'{{"Statement":{{{TO_ALL},"Action":"kms:*","Resource":"', '"}}'),
    "variables": repeated(
        "${aws:a}", f'{{"Version":"2012-10-17","Statement":{{{TO_ALL},"Action":"*","Resource":"', '"}}'
    ),
    "brackets": repeated("[", '{"Statement":'),
    "quotes": repeated('"', '{"Statement":'),
    "escapes": repeated("\\", '{"Statement":"'),
    "members": repeated('"Sid":"a",', "{", '"Id":"b"}'),
    "digits": repeated("9", '{"Statement":', "}"),
    "openings": repeated("${", f'{{"Version":"2012-10-17","Statement":{{{TO_ALL},"Action":"*","Resource":"', '"}}'),
}
BODIES = {
    "brackets": repeated("[", '{"EncryptionContext":'),
    "pairs": lambda size: '{"EncryptionContext":{' + ",".join(f'"{n}":"v"' for n in range(size // 10)) + "}}",
    "pairs of one name": repeated('"a":"b",', '{"EncryptionContext":{', '"c":"d"}}'),
    "tokens": repeated('"a",', '{"KeyId":"a","Plaintext":"YQ==","GrantTokens":[', '"b"]}'),
    "base64": repeated("YQ==", '{"KeyId":"a","Plaintext":"', '"}'),
    "a name": repeated("é", '{"KeyId":"', '"}'),
    "unknown members": repeated('"a":[{}],', "{", '"b":1}'),
    "digits": repeated("9", '{"KeyId":', "}"),
    "escapes": repeated("\\u0000", '{"KeyId":"', '"}'),
}
FORMS = (
    "a=b&",
    "&",
    "=",
    "%",
    "%41",
    "+",
    "Tags.member.1.Key=a&",
    "Action=AssumeRole&",
    "PolicyArns.member.1.arn=a&",
    "é",
)
ARNS = (
    *(
        "arn:",
        "arn:aws:kms:us-east-1:000000000000:key/",
        "alias/",
        "alias/a",
        ":",
        "a",
        "-",
        "a.",
        "amazonaws.com",
        "/",
    ),
    *("arn:aws:iam::000000000000:user/", "arn:aws-", "é", "aws-a"),
)


def other_cases() -> Iterator[Case]:
    """Policies, signatures, contexts, names, bodies, forms, tokens."""
    for name, make in POLICIES.items():
        for kind in (PolicyKind.KEY, PolicyKind.IDENTITY):
            yield Case(
                f"{kind.name} policy of {name}", make, lambda text, kind=kind: policy_document.parse(text, kind=kind)
            )
    for unit in ("*a", "?", "*", "a?*"):
        yield Case(f"wildcards {unit!r}", lambda size, unit=unit: (repeated(unit)(size // 16), "ab" * size), _wild)
    for name, make in BODIES.items():
        yield Case(f"Encrypt of {name}", lambda size, make=make: make(size).encode(), _decoding(kms_encrypt.Request))
    yield Case("PutLogEvents", _batch, _decoding(logs_put.Request))
    for unit in FORMS:
        yield Case(
            f"form of {unit!r}", lambda size, unit=unit: repeated(unit, "Action=AssumeRole&")(size).encode(), _form
        )
    yield from sigv4_cases()
    yield from sealed_cases()
    for unit in ARNS:
        yield Case(f"key named {unit!r}", repeated(unit), _key_name)
        yield Case(f"principal {unit!r}", repeated(unit), lambda text: principal.check_principal(text, "aws"))
        yield Case(f"account of {unit!r}", repeated(unit, "arn:aws:iam::000000000000:user/"), principal.account_of)
        yield Case(f"alias {unit!r}", repeated(unit, "alias/"), alias.check_new_name)
    yield Case("context of many", lambda size: {str(n): "v" for n in range(size // 10)}, encryption_context.canonical)
    yield Case("context of long", lambda size: {"é" * size: "v" * size}, encryption_context.canonical)
    yield Case("tags", lambda size: [Tag(str(n), "v") for n in range(size // 10)], tag_rules.as_mapping)
    for byte in (b"\x00", b"\x01", b"\x02", b"\xff"):
        yield Case(f"blob of {byte!r}", lambda size, byte=byte: byte * size, ciphertext_blob.parse)


def sealed_cases() -> Iterator[Case]:
    """Markers, and import tokens: what is not sealed here is refused before the token is asked."""
    box = ServiceSealer(cast("Token", None), (ServiceKey("sealing", b"", Algorithm.AES_256_GCM),))
    pager = Pager(box, "listing", {}, 10)
    for unit in ("AAAA", "=", "A", "-", "é", "\n"):
        yield Case(f"marker of {unit!r}", repeated(unit), lambda text: asyncio.run(pager.start(text)))
    for byte in (b"\x00", b"\xff"):
        make = partial(operator.mul, byte)
        yield Case(f"sealed {byte!r}", make, lambda sealed: asyncio.run(box.decrypt("import-token", "", sealed)))


def sigv4_cases() -> Iterator[Case]:
    """Requests that are signed, or pretend to be."""
    good = f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    for unit in (",", "=", "a=b,", " ", "Credential=a/", "SignedHeaders=a;", ";", "é", "AWS4-"):
        yield Case(f"Authorization of {unit!r}", repeated(unit, "AWS4-HMAC-SHA256 "), lambda text: _signed("/", text))
    for unit in ("a;", "host;", "x-amz-date;"):
        make = repeated(
            unit, f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=", f"host, Signature={'0' * 64}"
        )
        yield Case(f"signed headers of {unit!r}", make, lambda text: _signed("/", text))
    for unit in ("a=b&", "&", "=", "%", "%7e", "+", "X-Amz-Signature=a&", "é", "?"):
        yield Case(f"query of {unit!r}", repeated(unit, "/?"), lambda target: _signed(target, good))
        yield Case(f"presigned {unit!r}", repeated(unit, "/?X-Amz-Algorithm=a&"), lambda target: _signed(target, None))
    for unit in ("/", "/.", "/../", "/a/", "%", "é/"):
        yield Case(f"path of {unit!r}", repeated(unit), canonical.path)
    for unit in (" ", "a ", "\t", "a"):
        yield Case(f"header of {unit!r}", repeated(unit), canonical.header_value)


def _signed(target: str, authorization: str | None) -> object:
    headers = HEADERS if authorization is None else HEADERS | {"Authorization": authorization}
    request = RawRequest("POST", target, tuple(headers.items()), b"{}")
    return parse(request, region="us-east-1", services=SERVICES, now=NOW)


def _wild(given: tuple[str, str]) -> object:
    return Wildcard.of(given[0]).matches(given[1])


def _decoding(request: Any) -> Callable[[bytes], object]:
    return lambda body: shape.decode(body, request)


def _batch(size: int) -> bytes:
    events = ",".join(f'{{"timestamp":{n},"message":"a"}}' for n in range(size // 32))
    return f'{{"logGroupName":"a","logStreamName":"b","logEvents":[{events}]}}'.encode()


def _form(body: bytes) -> object:
    return query.decode(query.fields_of(body, "", is_form=True), sts_assume.Request)


def _key_name(text: str) -> object:
    arns = arn.ArnScope("aws", "us-east-1")
    return arn.parse_key_name(text, caller_account="000000000000", arns=arns, aliases=True)


# --- Measuring -----------------------------------------------------------------------------------------


def seconds(case: Case, given: Any) -> float:
    """CPU seconds of one call, a refusal included."""
    began = time.process_time()
    with suppress(*REFUSALS):
        case.act(given)
    return time.process_time() - began


def growth(case: Case) -> float:
    """How the work grows when the input doubles, where it can be measured: the mean of three doublings.

    0 if the largest input is too little work to be measured. The least of several times is that of the work alone.
    """
    size = SMALLEST
    while seconds(case, case.make(size)) < SECONDS:
        size *= 2
        if size > LARGEST:
            return 0.0
    part, whole = case.make(size // 8), case.make(size)
    times = [(seconds(case, part), seconds(case, whole)) for _ in range(ROUNDS)]
    return math.cbrt(min(time for _, time in times) / min(time for time, _ in times))


def main() -> None:
    """See the module."""
    gc.disable()
    found = {case.name: growth(case) for cases in (log_cases(), other_cases()) for case in cases}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
