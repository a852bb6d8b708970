"""Every malformed, stale, misdirected or changed request is refused, by the right name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kmsd.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    ServiceError,
    UnrecognizedClientException,
)
from kmsd.wire.sigv4.claim import MISMATCH, RawRequest, parse, reject_unknown_key, verify
from tests.support.sigv4 import BODY, CREDENTIAL, HEADERS, NOW, QUERY, SERVICES, STAMP, ask, presign, replaced, sign


def test_signed_request_is_accepted() -> None:
    """The request that the other tests change is accepted unchanged, and the claim says what it said."""
    claim = ask(sign())
    assert (claim.date, claim.region, claim.service) == ("20261122", "us-east-1", "kms")
    assert claim.session_token == "token/value=="
    assert claim.timestamp == NOW
    assert not claim.query_form
    assert sign().header("x-amz-target") == "TrentService.Encrypt"
    assert sign().header("absent") is None


def changed_at(text: str, position: int) -> str:
    """`text` with another character at `position`."""
    return text[:position] + ("b" if text[position] == "a" else "a") + text[position + 1 :]


@pytest.mark.parametrize("name", ["Host", "Content-Type", "X-Amz-Target", "X-Amz-Security-Token"])
def test_changed_header(name: str) -> None:
    """Any character of a signed header, changed, breaks the signature."""
    for position in range(len(HEADERS[name])):
        with pytest.raises(InvalidSignatureException, match="does not match"):
            ask(replaced(sign(), name, changed_at(HEADERS[name], position)))


def test_changed_method_path_query_body_signature() -> None:
    """So does any other part of the request."""
    good = sign()
    variants = [
        RawRequest("PUT", good.target, good.headers, good.body),
        RawRequest("POST", "/x", good.headers, good.body),
        RawRequest("POST", "/?x=1", good.headers, good.body),
        RawRequest("POST", "x", good.headers, good.body),
    ]
    without_hash = sign({name: value for name, value in HEADERS.items() if name != "X-Amz-Content-Sha256"})
    variants += [
        RawRequest("POST", "/", without_hash.headers, BODY[:position] + b"~" + BODY[position + 1 :])
        for position in range(len(BODY))
    ]
    authorization = good.header("authorization") or ""
    variants += [
        replaced(good, "Authorization", authorization[:-n] + changed_at(authorization[-n:], 0)) for n in range(1, 65)
    ]
    for variant in variants:
        with pytest.raises(InvalidSignatureException) as refusal:
            ask(variant)
        assert refusal.value.message == MISMATCH


@pytest.mark.parametrize(
    ("position", "error", "message"),
    [
        (12, InvalidSignatureException, "Date in Credential scope does not match YYYYMMDD"),
        (21, InvalidSignatureException, "Credential should be scoped to a valid region, not 'as-east-1'"),
        (31, InvalidSignatureException, "Credential should be scoped to correct service: 'kms', 'logs', 'sts'. "),
        (36, InvalidSignatureException, "with a valid terminator: 'aws4_request', not"),
        (11, IncompleteSignatureException, "Credential must have exactly 5 slash-delimited elements"),
    ],
)
def test_changed_credential(position: int, error: type[ServiceError], message: str) -> None:
    """A character of the credential, changed, is named for what it is."""
    changed = changed_at(CREDENTIAL, position) if position != 36 else CREDENTIAL.replace("aws4_request", "aws5_request")
    good = sign()
    authorization = (good.header("authorization") or "").replace(CREDENTIAL, changed)
    with pytest.raises(error, match=message):
        ask(replaced(good, "Authorization", authorization))


def test_changed_access_key_id() -> None:
    """The access key id is what the secret is found by; the claim names the one that was sent."""
    good = sign()
    authorization = (good.header("authorization") or "").replace("AKIDEXAMPLE", "AKIDEXAMPLF")
    changed = replaced(good, "Authorization", authorization)
    assert parse(changed, region="us-east-1", services=SERVICES, now=NOW).access_key_id == "AKIDEXAMPLF"


def test_all_scope_faults_in_one_message() -> None:
    """AWS lists every fault of the scope; so do we."""
    good = sign()
    authorization = (good.header("authorization") or "").replace(CREDENTIAL, "AKIDEXAMPLE/b/c/d/e")
    with pytest.raises(InvalidSignatureException) as refusal:
        ask(replaced(good, "Authorization", authorization))
    assert refusal.value.message == (
        "Credential should be scoped to a valid region, not 'c'. "
        "Credential should be scoped to correct service: 'kms', 'logs', 'sts'. "
        "Credential should be scoped with a valid terminator: 'aws4_request', not 'e'. "
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        "'b' != '20261122', from '20261122T120000Z'."
    )


@pytest.mark.parametrize(
    "date", ["", "2", "202611", "2026112", "20261122T12", STAMP, "20261121", "20261123", " 20261122"]
)
@pytest.mark.parametrize("form", ["X-Amz-Date", "Date", "query"])
def test_the_scope_is_of_the_day_of_the_signature(date: str, form: str) -> None:
    """Eight digits, and the timestamp's own: a signing key that was derived for any other date opens nothing.

    The refusal precedes the look-up of the access key: it costs no call of the token, and no cached key its place.
    """
    credential = CREDENTIAL.replace("20261122", date)
    headers = {name: value for name, value in HEADERS.items() if name != "X-Amz-Date"}
    headers[form] = STAMP if form == "X-Amz-Date" else "Sun, 22 Nov 2026 12:00:00 GMT"
    query = {**QUERY, "X-Amz-Credential": credential}
    with pytest.raises(InvalidSignatureException) as refusal:
        _ = presign(query) if form == "query" else sign(headers, credential=credential)
    assert refusal.value.message == (
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        f"'{date}' != '20261122', from '{STAMP}'."
    )


def test_changed_date() -> None:
    """A changed X-Amz-Date is stale, early, no date, of another day, or breaks the signature; never accepted."""
    for position in range(len(STAMP)):
        for digit in "0123456789aZT":
            if digit != STAMP[position]:
                stamp = STAMP[:position] + digit + STAMP[position + 1 :]
                with pytest.raises((InvalidSignatureException, IncompleteSignatureException)):
                    ask(replaced(sign(), "X-Amz-Date", stamp))


@pytest.mark.parametrize(
    ("authorization", "error", "message"),
    [
        (None, MissingAuthenticationTokenException, "Missing Authentication Token"),
        ("", MissingAuthenticationTokenException, "Missing Authentication Token"),
        ("Bearer x", MissingAuthenticationTokenException, "Missing Authentication Token"),
        ("AWS AKID:c2ln", MissingAuthenticationTokenException, "Missing Authentication Token"),
        (
            "AWS4-HMAC-SHA256",
            IncompleteSignatureException,
            (
                "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' "
                "parameter. Authorization header requires 'SignedHeaders' parameter."
            ),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host",
            IncompleteSignatureException,
            "Authorization header requires 'Signature' parameter.",
        ),
        (
            "AWS4-HMAC-SHA256 Signature=b, Credential, SignedHeaders",
            IncompleteSignatureException,
            "'Credential' not a valid key=value pair (missing equal-sign) in Authorization header.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a, Credential=b, SignedHeaders=host, Signature=c",
            IncompleteSignatureException,
            "Authorization header has 'Credential' twice, or should not have it.",
        ),
        (
            f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=HOSTS, Signature=short",
            InvalidSignatureException,
            MISMATCH,
        ),
        (
            f"AWS4-HMAC-SHA256 Credential=é{CREDENTIAL}, SignedHeaders=host, Signature={'0' * 64}",
            IncompleteSignatureException,
            "The Authorization header is too long or not printable ASCII.",
        ),
        (
            f"AWS4-HMAC-SHA256 Credential={CREDENTIAL * 100}, SignedHeaders=host, Signature={'0' * 64}",
            IncompleteSignatureException,
            "The Authorization header is too long or not printable ASCII.",
        ),
    ],
)
def test_authorization_forms(authorization: str | None, error: type[ServiceError], message: str) -> None:
    """A header that is absent, foreign, or lacks a part is refused, and the message names the part."""
    with pytest.raises(error) as refusal:
        ask(replaced(sign(), "Authorization", authorization))
    assert refusal.value.message == message


def test_authorization_spacing_and_order() -> None:
    """Parameters may stand in any order, with or without blanks around the commas."""
    good = sign()
    algorithm, _, rest = (good.header("authorization") or "").partition(" ")
    parts = rest.split(", ")
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]:
        for comma in [",", ", ", " ,  ", ",   "]:
            value = f"{algorithm}  " + comma.join(parts[n] for n in order)
            assert ask(replaced(good, "Authorization", value)).access_key_id == "AKIDEXAMPLE"
    assert ask(replaced(good, "Authorization", f" {algorithm} {rest} ")).access_key_id == "AKIDEXAMPLE"


def test_algorithm() -> None:
    """Signature version 4A, and anything else, is not this algorithm."""
    good = sign()
    for algorithm in ("AWS4-ECDSA-P256-SHA256", "AWS4-HMAC-SHA1", "AWS4-HMAC-SHA256X"):
        value = (good.header("authorization") or "").replace("AWS4-HMAC-SHA256", algorithm)
        with pytest.raises(IncompleteSignatureException, match=f"Unsupported AWS 'algorithm': '{algorithm}'"):
            ask(replaced(good, "Authorization", value))


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (timedelta(minutes=-15), None),
        (
            timedelta(minutes=-15, seconds=-1),
            "Signature expired: 20261122T114459Z is now earlier than 20261122T114500Z (20261122T120000Z - 15 min.)",
        ),
        (timedelta(minutes=15), None),
        (
            timedelta(minutes=15, seconds=1),
            (
                "Signature not yet current: 20261122T121501Z is still later than 20261122T121500Z "
                "(20261122T120000Z + 15 min.)"
            ),
        ),
    ],
)
def test_clock(offset: timedelta, message: str | None) -> None:
    """Fifteen minutes either way are accepted, and not a second more."""
    stamp = f"{NOW + offset:%Y%m%dT%H%M%SZ}"
    headers = {**HEADERS, "X-Amz-Date": stamp}
    if message is None:
        assert ask(sign(headers)).timestamp == NOW + offset
        return
    with pytest.raises(InvalidSignatureException) as refusal:
        sign(headers)
    assert refusal.value.message == message


@pytest.mark.parametrize("stamp", ["201", "20261122T120000", "2026-11-22T12:00:00Z", "20261322T120000Z", "é" * 16, ""])
def test_odd_dates(stamp: str) -> None:
    """X-Amz-Date has one form."""
    with pytest.raises(IncompleteSignatureException, match="Date must be in ISO-8601 'basic format'"):
        ask(replaced(sign(), "X-Amz-Date", stamp))


@pytest.mark.parametrize(
    "date",
    ["Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 -0000", "Sun, 22 Nov 2026 13:00:00 +0100", STAMP],
)
def test_date_header(date: str) -> None:
    """Without X-Amz-Date the Date header counts, in the forms of RFC 1123 and ISO 8601; it must be signed."""
    headers = {"Host": "h", "Date": date}
    assert ask(sign(headers)).timestamp == NOW
    with pytest.raises(InvalidSignatureException, match="'date' must be a 'SignedHeader'"):
        sign(headers, signed="host")


def test_no_date_and_odd_date() -> None:
    """No date at all is named with the other missing parts; a Date header that is none, as such."""
    good = sign({"Host": "h", "Date": STAMP})
    with pytest.raises(IncompleteSignatureException, match="requires existence of either a 'X-Amz-Date' or a 'Date'"):
        ask(replaced(good, "Date", None))
    for text in ("yesterday", "x" * 50, "Sun, 99 Nov 2026 12:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359"):
        with pytest.raises(IncompleteSignatureException, match="Date must be in ISO-8601 'basic format'"):
            ask(replaced(good, "Date", text))


@pytest.mark.parametrize("name", ["Host", "X-Amz-Date", "X-Amz-Target", "X-Amz-Security-Token", "X-Amz-Content-Sha256"])
def test_must_be_signed(name: str) -> None:
    """Host and every X-Amz-* header that is present must be signed."""
    signed = ";".join(sorted(n.lower() for n in HEADERS if n != name))
    what = "'Host' or ':authority'" if name == "Host" else f"'{name.lower()}'"
    with pytest.raises(InvalidSignatureException) as refusal:
        sign(signed=signed)
    assert refusal.value.message == f"{what} must be a 'SignedHeader' in the AWS Authorization."


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        ("x-amz-date;host", IncompleteSignatureException),
        ("host;host;x-amz-date", IncompleteSignatureException),
        ("absent;host;x-amz-date", InvalidSignatureException),
        ("Host;x-amz-date", InvalidSignatureException),
        (";host;x-amz-date", InvalidSignatureException),
    ],
)
def test_odd_signed_headers(signed: str, error: type[ServiceError]) -> None:
    """The list is sorted, in lower case, without repetition, and names headers of the request."""
    with pytest.raises(error):
        sign({"Host": "h", "X-Amz-Date": STAMP}, signed=signed)


@pytest.mark.parametrize(
    "name",
    ["authorization", "date", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amz-target"],
)
def test_given_twice(name: str) -> None:
    """A header that means something to us is refused when given twice, even with equal values."""
    good = sign({**HEADERS, "Date": STAMP})
    doubled = (*good.headers, (name.upper(), good.header(name) or ""))
    with pytest.raises(IncompleteSignatureException) as refusal:
        ask(RawRequest("POST", "/", doubled, BODY))
    assert refusal.value.message == f"The header '{name}' is given more than once."


@pytest.mark.parametrize("stated", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "é", "", "0" * 64])
def test_body_hash(stated: str) -> None:
    """X-Amz-Content-Sha256, if sent, is the body's hash and nothing else."""
    with pytest.raises(InvalidSignatureException, match="'x-amz-content-sha256' is not the SHA-256 of the body"):
        sign({**HEADERS, "X-Amz-Content-Sha256": stated})


def test_header_values_cannot_pass_for_headers() -> None:
    """A line break inside a value is refused; blanks inside and around are canonical."""
    with pytest.raises(IncompleteSignatureException, match="line break"):
        sign({**HEADERS, "Content-Type": "a\nhost:b"})
    spaced = sign({**HEADERS, "Content-Type": "  a \t b  "})
    assert b"\ncontent-type:a b\n" in ask(replaced(spaced, "Content-Type", "a b")).canonical_request


def test_too_much() -> None:
    """Absurd numbers and lengths are refused before work is spent on them."""
    good = sign()
    many = (*good.headers, *((f"X-{n}", "") for n in range(64)))
    long_name = (*good.headers, ("X" * 129, ""))
    odd_name = (*good.headers, ("é", ""))
    for headers in (many, long_name, odd_name):
        with pytest.raises(IncompleteSignatureException, match="too many headers"):
            ask(RawRequest("POST", "/", headers, BODY))
    for token in ("", "x" * 8193, "é", "a\x00b"):
        with pytest.raises(IncompleteSignatureException, match="security token"):
            ask(replaced(good, "X-Amz-Security-Token", token))
    for key_id in ("A" * 129, "AKID.EXAMPLE", ""):
        authorization = (good.header("authorization") or "").replace("AKIDEXAMPLE", key_id)
        with pytest.raises(IncompleteSignatureException):
            ask(replaced(good, "Authorization", authorization))
    with pytest.raises(MissingAuthenticationTokenException):
        ask(RawRequest("POST", "/", (), b""))


def test_unknown_key_is_refused_like_a_wrong_signature() -> None:
    """The refusal of an unknown access key computes a signature too, and says nothing of it."""
    claim = ask(sign())
    with pytest.raises(UnrecognizedClientException) as refusal:
        reject_unknown_key(claim)
    assert refusal.value.message == "The security token included in the request is invalid."


def test_refusals_hold_no_canonical_text() -> None:
    """The answer to a wrong signature does not show what would have been the right text to sign."""
    with pytest.raises(InvalidSignatureException) as refusal:
        verify(ask(sign()), b"k" * 32)
    assert refusal.value.message == MISMATCH
