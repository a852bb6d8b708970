"""AWS's published examples of Signature Version 4 verify, and so does whatever botocore signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.errors import InvalidSignatureException
from kmsd.wire.sigv4 import canonical
from kmsd.wire.sigv4.claim import RawRequest, parse, signing_key, verify

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = ("Host", "example.amazonaws.com")
DATE = ("X-Amz-Date", "20150830T123600Z")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthA"
    "x7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9"
    "q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"

# The AWS Signature Version 4 test suite: name, method, target, further headers, body, signed headers, signature.
SUITE = [
    ("get-vanilla", "GET", "/", [], b"", "host;x-amz-date", VANILLA),
    ("get-relative", "GET", "/example/..", [], b"", "host;x-amz-date", VANILLA),
    ("get-relative-relative", "GET", "/example1/example2/../..", [], b"", "host;x-amz-date", VANILLA),
    ("get-slash", "GET", "//", [], b"", "host;x-amz-date", VANILLA),
    ("get-slash-dot-slash", "GET", "/./", [], b"", "host;x-amz-date", VANILLA),
    (
        "get-slash-pointless-dot",
        "GET",
        "/./example",
        [],
        b"",
        "host;x-amz-date",
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
    ),
    (
        "get-slashes",
        "GET",
        "//example//",
        [],
        b"",
        "host;x-amz-date",
        "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
    ),
    (
        "get-space",
        "GET",
        "/example space/",
        [],
        b"",
        "host;x-amz-date",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    (
        "get-utf8",
        "GET",
        "/ሴ",
        [],
        b"",
        "host;x-amz-date",
        "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
    ),
    (
        "get-unreserved",
        "GET",
        f"/{UNRESERVED}",
        [],
        b"",
        "host;x-amz-date",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [],
        b"",
        "host;x-amz-date",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [],
        b"",
        "host;x-amz-date",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    (
        "get-vanilla-query-unreserved",
        "GET",
        f"/?{UNRESERVED}={UNRESERVED}",
        [],
        b"",
        "host;x-amz-date",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    (
        "get-header-key-duplicate",
        "GET",
        "/",
        [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        b"",
        "host;my-header1;x-amz-date",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "get-header-value-order",
        "GET",
        "/",
        [("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")],
        b"",
        "host;my-header1;x-amz-date",
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        b"",
        "host;my-header1;my-header2;x-amz-date",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "post-vanilla",
        "POST",
        "/",
        [],
        b"",
        "host;x-amz-date",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    (
        "post-vanilla-query",
        "POST",
        "/?Param1=value1",
        [],
        b"",
        "host;x-amz-date",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-header-key-sort",
        "POST",
        "/",
        [("My-Header1", "value1")],
        b"",
        "host;my-header1;x-amz-date",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-header-value-case",
        "POST",
        "/",
        [("My-Header1", "VALUE1")],
        b"",
        "host;my-header1;x-amz-date",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [FORM],
        b"Param1=value1",
        "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    (
        "post-x-www-form-urlencoded-parameters",
        "POST",
        "/",
        [("Content-Type", "application/x-www-form-urlencoded; charset=utf8")],
        b"Param1=value1",
        "content-type;host;x-amz-date",
        "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
    ),
    (
        "post-sts-header-before",
        "POST",
        "/",
        [("X-Amz-Security-Token", TOKEN)],
        b"",
        "host;x-amz-date;x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
]


def authorization(
    signed: str, signature: str, scope: str = "AKIDEXAMPLE/20150830/us-east-1/service"
) -> tuple[str, str]:
    """The Authorization header of the published examples."""
    return (
        "Authorization",
        f"AWS4-HMAC-SHA256 Credential={scope}/aws4_request, SignedHeaders={signed}, Signature={signature}",
    )


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "signed", "signature"),
    [pytest.param(*row[1:], id=row[0]) for row in SUITE],
)
def test_published_suite(  # noqa: PLR0917  # one for each column
    method: str, target: str, headers: list[tuple[str, str]], body: bytes, signed: str, signature: str
) -> None:
    """Each example of the suite is accepted as it was published."""
    request = RawRequest(method, target, (HOST, *headers, DATE, authorization(signed, signature)), body)
    claim = parse(request, region="us-east-1", services={"service"}, now=NOW)
    verify(claim, signing_key(SECRET, claim.date, claim.region, claim.service))
    assert claim.access_key_id == "AKIDEXAMPLE"
    assert claim.timestamp == NOW


def test_suite_token_added_after_signing() -> None:
    """post-sts-header-after is refused here: a token that nobody signed could be exchanged on the way."""
    signature = next(row[6] for row in SUITE if row[0] == "post-vanilla")
    headers = (HOST, DATE, ("X-Amz-Security-Token", TOKEN), authorization("host;x-amz-date", signature))
    with pytest.raises(InvalidSignatureException, match="'x-amz-security-token' must be a 'SignedHeader'"):
        parse(RawRequest("POST", "/", headers, b""), region="us-east-1", services={"service"}, now=NOW)


def test_documented_iam_example() -> None:
    """IAM ListUsers, the example that AWS's documentation works through, with its derived signing key."""
    key = signing_key(SECRET, "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    headers = (
        ("Host", "iam.amazonaws.com"),
        ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
        DATE,
        authorization(
            "content-type;host;x-amz-date",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            "AKIDEXAMPLE/20150830/us-east-1/iam",
        ),
    )
    request = RawRequest("GET", "/?Action=ListUsers&Version=2010-05-08", headers, b"")
    verify(parse(request, region="us-east-1", services={"iam"}, now=NOW), key)


def test_date_header_of_the_first_suite() -> None:
    """The suite of 2011 signs an RFC 1123 Date header (whose day of the week is wrong) instead of X-Amz-Date."""
    headers = (
        ("Date", "Mon, 09 Sep 2011 23:36:00 GMT"),
        ("Host", "host.foo.com"),
        authorization(
            "date;host",
            "b27ccfbfa7df52a200ff74193ca6e32d4b48b8856fab7ebf1c595d0670a7e470",
            "AKIDEXAMPLE/20110909/us-east-1/host",
        ),
    )
    now = datetime(2011, 9, 9, 23, 36, tzinfo=UTC)
    claim = parse(RawRequest("GET", "/", headers, b""), region="us-east-1", services={"host"}, now=now)
    verify(claim, signing_key(SECRET, "20110909", "us-east-1", "host"))
    assert claim.timestamp == now


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/", "/"),
        ("", "/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/b/..", "/a"),
        ("/a%2Fb", "/a%252Fb"),
        ("/a/../b/", "/b/"),
        ("/a/.", "/a"),
        ("/\udcff", "/%FF"),
    ],
)
def test_path(raw: str, expected: str) -> None:
    """Paths are normalised, then encoded once more."""
    assert canonical.path(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ""),
        ("b=2&a=1", "a=1&b=2"),
        ("a=2&a=1", "a=1&a=2"),
        ("a", "a="),
        ("&&a=1&", "a=1"),
        ("a=b=c", "a=b%3Dc"),
        ("a=%7e%2f", "a=~%2F"),
        ("a=x+y", "a=x%2By"),
        ("a=%zz", "a=%25zz"),
        ("A=1&a=2&B=3", "A=1&B=3&a=2"),
        ("a=%ff", "a=%FF"),
    ],
)
def test_query(raw: str, expected: str) -> None:
    """Queries are decoded, encoded one way, and sorted by name, then by value."""
    assert canonical.query(canonical.query_pairs(raw)) == expected


# --- Whatever botocore signs ------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
queries = st.lists(st.tuples(texts, texts), max_size=4).map(
    lambda pairs: "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
)
paths = st.lists(st.one_of(texts, st.sampled_from(["", ".", ".."])), max_size=4).map(
    lambda parts: "/" + "/".join(quote(part, safe="-_.~") for part in parts)
)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
odd_headers = st.dictionaries(st.from_regex(r"X-[A-Z][a-z0-9]{0,6}", fullmatch=True), printable, max_size=3)
credentials = st.builds(
    Credentials,
    st.from_regex(r"[A-Z0-9]{16,20}", fullmatch=True),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40),
    st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60),
)


def received(request: AWSRequest, method: str, body: bytes) -> RawRequest:
    """What a server would receive of a request that botocore signed."""
    parts = urlsplit(request.url)
    headers = [(name, value.decode() if isinstance(value, bytes) else value) for name, value in request.headers.items()]
    if "Host" not in request.headers:
        headers.append(("Host", parts.netloc))
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return RawRequest(method, target, tuple(headers), body)


@settings(max_examples=300)
@given(
    credentials=credentials,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
    path=paths,
    query=queries,
    headers=odd_headers,
    body=st.binary(max_size=64),
    dated=st.booleans(),
)
def test_botocore_header_form(
    *, credentials: Credentials, method: str, path: str, query: str, headers: dict[str, str], body: bytes, dated: bool
) -> None:
    """Whatever SigV4Auth signs is accepted, with X-Amz-Date or with Date, with or without a session token."""
    if dated:
        headers = {**headers, "Date": "replaced by botocore"}
    url = f"http://127.0.0.1:8480{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, data=body, headers=headers)
    SigV4Auth(credentials, "kms", "eu-west-1").add_auth(request)
    claim = parse(
        received(request, method, body), region="eu-west-1", services={"kms", "logs"}, now=datetime.now(tz=UTC)
    )
    verify(claim, signing_key(credentials.secret_key, claim.date, "eu-west-1", "kms"))
    assert (claim.access_key_id, claim.session_token) == (credentials.access_key, credentials.token)


@settings(max_examples=200)
@given(
    credentials=credentials,
    path=paths,
    query=st.dictionaries(texts, texts, max_size=3),
    headers=odd_headers,
    body=st.binary(max_size=64),
    expires=st.integers(60, 604_800),
)
def test_botocore_query_form(
    *, credentials: Credentials, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, expires: int
) -> None:
    """Whatever SigV4QueryAuth signs is accepted until it expires."""
    request = AWSRequest("GET", f"http://127.0.0.1:8480{path}", params=query, headers=headers)
    SigV4QueryAuth(credentials, "sts", "eu-west-1", expires=expires).add_auth(request)
    now = datetime.now(tz=UTC)
    got = received(request, "GET", b"")
    claim = parse(got, region="eu-west-1", services={"sts"}, now=now)
    key = signing_key(credentials.secret_key, claim.date, "eu-west-1", "sts")
    verify(claim, key)
    assert (claim.access_key_id, claim.session_token) == (credentials.access_key, credentials.token)
    if body:
        changed = parse(RawRequest("GET", got.target, got.headers, body), region="eu-west-1", services={"sts"}, now=now)
        with pytest.raises(InvalidSignatureException):
            verify(changed, key)
    with pytest.raises(InvalidSignatureException, match="Signature expired"):
        parse(got, region="eu-west-1", services={"sts"}, now=claim.timestamp + timedelta(seconds=expires))
