"""Requests signed in both forms, as tests change them."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote

from kmsd.wire.sigv4.claim import RawRequest, SignedRequest, parse, signing_key, verify

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STAMP = "20261122T120000Z"
BODY = b'{"KeyId":"alias/x"}'
CREDENTIAL = "AKIDEXAMPLE/20261122/us-east-1/kms/aws4_request"
HEADERS = {
    "Host": "127.0.0.1:8480",
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Target": "TrentService.Encrypt",
    "X-Amz-Date": STAMP,
    "X-Amz-Security-Token": "token/value==",
    "X-Amz-Content-Sha256": hashlib.sha256(BODY).hexdigest(),
}
SERVICES = {"kms", "logs", "sts"}


def ask(request: RawRequest, now: datetime = NOW) -> SignedRequest:
    """Parse and verify, as the front end does with a known access key."""
    claim = parse(request, region="us-east-1", services=SERVICES, now=now)
    verify(claim, signing_key(SECRET, claim.date, claim.region, claim.service))
    return claim


def sign(
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    target: str = "/",
    body: bytes = BODY,
    signed: str | None = None,
    credential: str = CREDENTIAL,
) -> RawRequest:
    """A request signed with `SECRET` in the header form, by the code under test where a text is needed."""
    headers = dict(HEADERS if headers is None else headers)
    names = signed if signed is not None else ";".join(sorted(name.lower() for name in headers))
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={'0' * 64}"
    unsigned = RawRequest(method, target, tuple(headers.items()), body)
    claim = parse(unsigned, region="us-east-1", services=SERVICES, now=NOW)
    key = signing_key(SECRET, claim.date, claim.region, claim.service)
    signature = hmac.digest(key, claim.string_to_sign, "sha256").hex()
    headers["Authorization"] = headers["Authorization"].replace("0" * 64, signature)
    return RawRequest(method, target, tuple(headers.items()), body)


def replaced(request: RawRequest, name: str, value: str | None) -> RawRequest:
    """`request` with one header changed, added, or (None) taken away."""
    kept = [(n, v) for n, v in request.headers if n.lower() != name.lower()]
    if value is not None:
        kept.append((name, value))
    return RawRequest(request.method, request.target, tuple(kept), request.body)


QUERY = {
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": CREDENTIAL,
    "X-Amz-Date": STAMP,
    "X-Amz-Expires": "60",
    "X-Amz-SignedHeaders": "host",
}


def presign(query: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> RawRequest:
    """A request signed with `SECRET` in the query form."""
    query = QUERY if query is None else query
    text = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in query.items())
    given = tuple((headers or {"Host": "h"}).items())
    claim = parse(
        RawRequest("GET", f"/?{text}&X-Amz-Signature={'0' * 64}", given, b""),
        region="us-east-1",
        services=SERVICES,
        now=NOW,
    )
    key = signing_key(SECRET, claim.date, claim.region, claim.service)
    signature = hmac.digest(key, claim.string_to_sign, "sha256").hex()
    return RawRequest("GET", f"/?{text}&X-Amz-Signature={signature}", given, b"")
