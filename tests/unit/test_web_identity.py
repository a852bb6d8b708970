"""Web tokens: which are accepted, and how the keys of their issuers are kept."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kmsd.domain.principal import Caller
from kmsd.errors import (
    ExpiredWebIdentityTokenException,
    IDPCommunicationErrorException,
    InvalidIdentityTokenException,
)
from kmsd.wire.web_identity import verification
from kmsd.wire.web_identity.issuer_keys import (
    PAUSE_SECONDS,
    REFRESH_SECONDS,
    STALE_SECONDS,
    IssuerKeys,
    IssuerUnavailable,
    Jwk,
)
from kmsd.wire.web_identity.verification import WebIdentities
from tests.support.web_identity import AUDIENCE, SUBJECT, Issuer

ACCOUNT = "000000000000"


@pytest.fixture(name="issuer", scope="module")
def _issuer() -> Issuer:
    """An issuer with a key of each kind."""
    issuer = Issuer()
    issuer.add("p256", ec.generate_private_key(ec.SECP256R1()), "ES256")
    issuer.add("p384", ec.generate_private_key(ec.SECP384R1()), "ES384")
    issuer.add("p521", ec.generate_private_key(ec.SECP521R1()), "ES512")
    issuer.add("ed", ed25519.Ed25519PrivateKey.generate(), "EdDSA")
    issuer.add("weak", rsa.generate_private_key(65537, 1024), "RS256")  # noqa: S505 (what it is about)
    return issuer


def trusting(issuer: Issuer, jwks: bytes | None = None) -> WebIdentities:
    """What trusts this issuer, with its keys or others."""

    async def fetch() -> Sequence[Jwk]:
        keys: list[Jwk] = json.loads(jwks or issuer.jwks())["keys"]
        return keys

    keys = IssuerKeys(issuer.url, fetch)
    return WebIdentities(
        [verification.Issuer(issuer.url, issuer.arn(ACCOUNT), ACCOUNT, frozenset({AUDIENCE, "other"}), keys)]
    )


def bearer(issuer: Issuer, token: str, jwks: bytes | None = None) -> Caller:
    """Who bears the token. Raises `ServiceError`."""
    return asyncio.run(trusting(issuer, jwks).authenticate(token, datetime.now(UTC))).caller


@pytest.mark.parametrize("key_id", ["rsa", "p256", "p384", "p521", "ed"])
def test_a_good_token(issuer: Issuer, key_id: str) -> None:
    """Of every algorithm: the bearer is the subject, of the issuer's account."""
    caller = bearer(issuer, issuer.token(key_id))
    assert caller.account == ACCOUNT
    assert caller.arn == caller.identity_provider == issuer.arn(ACCOUNT)
    assert caller.principal_id == f"{issuer.url}:{AUDIENCE}:{SUBJECT}"
    assert caller.web_identity is not None
    assert caller.web_identity.claims == {f"{issuer.name}:aud": AUDIENCE, f"{issuer.name}:sub": SUBJECT.lower()}


def test_claims(issuer: Issuer) -> None:
    """The audience is the authorised party if there is one; values keep their case, names do not matter."""
    token = issuer.token(azp="other", aud=["app", AUDIENCE], amr=["pwd", "mfa"], email="A@example.com", sub="Bob")
    found = bearer(issuer, token).web_identity
    assert found is not None
    assert found.audience == "other"
    assert found.claims == {
        f"{issuer.name}:aud": "other",
        f"{issuer.name}:oaud": ("app", AUDIENCE),
        f"{issuer.name}:sub": "Bob",
        f"{issuer.name}:amr": ("pwd", "mfa"),
        f"{issuer.name}:email": "A@example.com",
    }


def test_a_token_without_key_id(issuer: Issuer) -> None:
    """Any of the issuer's keys may have signed it."""
    key, algorithm = issuer.keys["p256"]
    assert bearer(issuer, jwt.encode(issuer.claims(), key, algorithm)).user_name == SUBJECT


def part(value: Any) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_public_key(issuer: Issuer) -> str:
    """A token with an HMAC under the public key, as text: the classic downgrade."""
    public = issuer.keys["rsa"][0].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{part(issuer.claims())}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem, text.encode(), "sha256")).rstrip(b"=").decode()
    return f"{text}.{mac}"


def resigned(issuer: Issuer, algorithm: str) -> str:
    """A token that names one algorithm, with the signature of another."""
    _, claims, signature = issuer.token().split(".")
    return f"{part({'alg': algorithm, 'kid': 'rsa'})}.{claims}.{signature}"


def by_stranger(issuer: Issuer, key_id: str) -> str:
    """A token that names a key of the issuer, signed by somebody else's."""
    return jwt.encode(
        issuer.claims(), rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": key_id} if key_id else {}
    )


def with_claims(issuer: Issuer, **changed: Any) -> str:
    """A signed token with these claims, whatever they are."""
    key, algorithm = issuer.keys["rsa"]
    claims = {name: value for name, value in {**issuer.claims(), **changed}.items() if value is not None}
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm, headers={"kid": "rsa"})  # type: ignore[arg-type]


def changed_signature(issuer: Issuer, position: int) -> str:
    """A good token with another character in its signature."""
    head, claims, signature = issuer.token().split(".")
    other = "A" if signature[position] != "A" else "B"
    return f"{head}.{claims}.{signature[:position]}{other}{signature[position + 1 :]}"


def changed_claims(issuer: Issuer) -> str:
    """A good token with another subject under the old signature."""
    head, _, signature = issuer.token().split(".")
    return f"{head}.{part(issuer.claims(sub='admin'))}.{signature}"


def by_weak_key(issuer: Issuer) -> str:
    """A token signed with a key of the issuer that is too short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return issuer.token("weak")


NOW = int(time.time())
FORGED: dict[str, Callable[[Issuer], str]] = {
    "empty": lambda _: "....",
    "text": lambda _: "this is no token at all",
    "two parts": lambda i: i.token().rpartition(".")[0],
    "four parts": lambda i: i.token() + ".AAAA",
    "no signature": lambda i: i.token().rpartition(".")[0] + ".",
    "not base64": lambda i: "!!!" + i.token()[3:],
    "claims that are no JSON": lambda i: f"{i.token().partition('.')[0]}.AAAA.AAAA",
    "claims that are a list": lambda i: f"{i.token().partition('.')[0]}.{part([1])}.AAAA",
    "header that is a list": lambda i: f"{part(['RS256'])}.{part(i.claims())}.AAAA",
    "alg none": lambda i: f"{part({'alg': 'none'})}.{part(i.claims())}.",
    "alg None": lambda i: f"{part({'alg': 'None'})}.{part(i.claims())}.",
    "alg none with signature": lambda i: resigned(i, "none"),
    "alg missing": lambda i: f"{part({'typ': 'JWT'})}.{part(i.claims())}.AAAA",
    "alg empty": lambda i: resigned(i, ""),
    "HS256 with the public key": by_public_key,
    "HS512": lambda i: resigned(i, "HS512"),
    "PS256": lambda i: resigned(i, "PS256"),
    "RS1": lambda i: resigned(i, "RS1"),
    "RS384 on a key for RS256": lambda i: resigned(i, "RS384"),
    "ES256 on an RSA key": lambda i: resigned(i, "ES256"),
    "EdDSA on an RSA key": lambda i: resigned(i, "EdDSA"),
    "critical header": lambda i: i.token(headers={"crit": ["b64"], "b64": False}),
    "unknown kid": lambda i: i.token(headers={"kid": "another"}),
    "kid of another key": lambda i: i.token(headers={"kid": "p256"}),
    "kid that is a path": lambda i: i.token(headers={"kid": "../../../../dev/null"}),
    "kid that is a number": lambda i: f"{part({'alg': 'RS256', 'kid': 1})}.{part(i.claims())}.AAAA",
    "stranger's key": lambda i: by_stranger(i, "rsa"),
    "stranger's key without kid": lambda i: by_stranger(i, ""),
    "stranger's key in the header": lambda i: jwt.encode(
        i.claims(), i.keys["p256"][0], "ES256", headers={"kid": "x", "jku": "https://evil.example.com/keys"}
    ),
    "weak key": by_weak_key,
    "first character changed": lambda i: changed_signature(i, 0),
    "middle character changed": lambda i: changed_signature(i, 100),
    "claims changed": changed_claims,
    "another issuer": lambda i: i.token(iss="https://evil.example.com"),
    "issuer with a slash": lambda i: i.token(iss=f"{i.url}/"),
    "issuer by http": lambda i: i.token(iss=i.url.replace("https", "http")),
    "no issuer": lambda i: i.token(iss=None),
    "issuer that is a list": lambda i: with_claims(i, iss=[i.url]),
    "another audience": lambda i: i.token(aud="someone-else"),
    "no audience": lambda i: i.token(aud=None),
    "authorised party that is another": lambda i: i.token(azp="someone-else"),
    "audiences of others": lambda i: i.token(aud=["a", "b"]),
    "no subject": lambda i: i.token(sub=None),
    "subject that is a number": lambda i: with_claims(i, sub=7),
    "no expiry": lambda i: i.token(exp=None),
    "expiry that is a text": lambda i: with_claims(i, exp=str(NOW + 600)),
    "not yet valid": lambda i: i.token(nbf=NOW + 7200),
    "made in the future": lambda i: i.token(iat=NOW + 7200),
    "no time of issue": lambda i: i.token(iat=None),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token(issuer: Issuer, name: str) -> None:
    """Is refused, and its refusal quotes neither token nor key."""
    token = FORGED[name](issuer)
    with pytest.raises(InvalidIdentityTokenException) as caught:
        bearer(issuer, token)
    assert token not in f"{caught.value.message}{caught.value.detail}"


def test_an_expired_token(issuer: Issuer) -> None:
    """Has an error of its own. A minute is allowed for clocks that differ."""
    with pytest.raises(ExpiredWebIdentityTokenException):
        bearer(issuer, issuer.token(iat=NOW - 7200, exp=NOW - 3600))
    assert bearer(issuer, issuer.token(iat=NOW - 600, exp=int(time.time()) - 20)).user_name == SUBJECT
    assert bearer(issuer, issuer.token(iat=int(time.time()) + 20)).user_name == SUBJECT


@pytest.mark.parametrize(
    "change", [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "AAAA"}, {"n": "AQAB"}, {"n": 5}, {"kty": None}]
)
def test_a_key_that_is_not_for_this(issuer: Issuer, change: dict[str, Any]) -> None:
    """Keys for other uses and algorithms, and what is no key, verify nothing; other keys of the set go on."""
    keys = json.loads(issuer.jwks())["keys"]
    keys = [{**key, **change} if key["kid"] == "rsa" else key for key in keys]
    jwks = json.dumps({"keys": keys}).encode()
    with pytest.raises(InvalidIdentityTokenException):
        bearer(issuer, issuer.token(), jwks)
    assert bearer(issuer, issuer.token("p256"), jwks).user_name == SUBJECT


class Site:
    """An issuer's keys over a time that the test sets."""

    def __init__(self) -> None:
        self.now, self.ids, self.fetches = 1e6, ["a"], 0
        self.is_down = False
        self.keys = IssuerKeys("https://idp.example.com", self._fetch, lambda: self.now)

    async def _fetch(self) -> Sequence[Jwk]:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise IssuerUnavailable("no route")
        return [{"kid": one} for one in self.ids]

    async def has(self, key_id: str) -> bool:
        """Whether the key is found; then lets a refresh in the background end."""
        found = await self.keys.candidates(key_id)
        for _ in range(5):
            await asyncio.sleep(0)
        return bool(found)


async def test_keys_are_fetched_once() -> None:
    """However many ask at once, also one that gives up."""
    site = Site()
    waiting = [asyncio.create_task(site.has("a")) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert all(await asyncio.gather(*waiting[1:]))
    assert await site.has("a")
    assert site.fetches == 1


async def test_keys_are_replaced() -> None:
    """A new key is found at once, and an old one is lost with it. A flood of unknown ids asks once in a while."""
    site = Site()
    assert await site.has("a")
    site.ids = ["b"]
    site.now += PAUSE_SECONDS
    assert await site.has("b")
    assert not await site.has("a")
    for number in range(100):
        assert not await site.has(f"unknown{number}")
    assert site.fetches == 2
    site.ids = ["c"]
    site.now += REFRESH_SECONDS
    assert await site.has("b")  # in the background
    assert not await site.has("b")
    assert await site.has("c")
    assert site.fetches == 3


async def test_an_issuer_that_is_down() -> None:
    """Known keys go on for a day; then, and for unknown ones, the answer says that the issuer cannot be asked."""
    site = Site()
    site.is_down = True
    with pytest.raises(IDPCommunicationErrorException):
        await site.has("a")
    site.is_down = False
    site.now += PAUSE_SECONDS
    assert await site.has("a")
    site.is_down = True
    site.now += STALE_SECONDS
    assert await site.has("a")
    site.now += 1
    with pytest.raises(IDPCommunicationErrorException):
        await site.has("a")
    site.is_down = False
    site.now += PAUSE_SECONDS
    assert await site.has("a")
