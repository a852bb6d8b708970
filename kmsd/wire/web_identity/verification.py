"""Verification of web tokens (JSON web tokens, RFC 7519, of OpenID Connect issuers).

A token proves that its bearer is the subject, to the audience, for a time. What the subject may do is decided by the
trust policy of a role. Nothing here costs a call to the token that holds the keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS

from kmsd.authz.wildcard import fold
from kmsd.domain.principal import AuthenticatedCaller, Caller, PrincipalType, WebIdentity
from kmsd.errors import ExpiredWebIdentityTokenException, InvalidIdentityTokenException
from kmsd.wire.web_identity.issuer_keys import IssuerKeys, Jwk

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Signature algorithms that are accepted: none with a shared secret."""
MIN_RSA_BITS = 2048
SKEW = timedelta(seconds=60)
"""Difference that the issuer's clock may have from this host's."""
CLAIMS = ("aud", "oaud", "sub", "amr", "email")
"""Claims that trust policies see, as the condition keys `ISSUER:CLAIM`."""
_NOT_A_JWT = "The ID Token provided is not a valid JWT."
_BAD_SIGNATURE = "Couldn't verify the signature of the ID Token."
_jws = PyJWS()


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: msgspec.Raw | None = None


class _ClaimedTags(msgspec.Struct):
    """Session tags in a token, as AWS documents them."""

    principal_tags: dict[str, tuple[str] | str] = {}
    transitive_tag_keys: tuple[str, ...] = ()


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: float
    iat: float
    nbf: float = 0
    azp: str | None = None
    amr: tuple[str, ...] | None = None
    email: str | None = None
    tags: _ClaimedTags = msgspec.field(default_factory=_ClaimedTags, name="https://aws.amazon.com/tags")
    source_identity: str = msgspec.field(default="", name="https://aws.amazon.com/source_identity")

    @property
    def audiences(self) -> tuple[str, ...]:
        """The authorised party, if the token names one, else the audiences (as AWS reads them)."""
        if self.azp is not None:
            return (self.azp,)
        return (self.aud,) if isinstance(self.aud, str) else self.aud


class Issuer(msgspec.Struct, frozen=True):
    """An issuer that the configuration trusts."""

    url: str
    """The value of the claim `iss`."""
    arn: str
    """`arn:aws:iam::A:oidc-provider/HOST/PATH`, which trust policies name as `Federated` principal."""
    account: str
    audiences: frozenset[str]
    keys: IssuerKeys

    @property
    def name(self) -> str:
        """The URL without scheme: the first part of condition keys."""
        return issuer_name(self.url)


def issuer_name(url: str) -> str:
    """Return an issuer's name in ARNs and condition keys: its URL without scheme."""
    return url.partition("://")[2].rstrip("/")


def condition_keys_of(url: str) -> frozenset[str]:
    """Return the folded condition keys of an issuer's claims."""
    return frozenset(fold(f"{issuer_name(url)}:{claim}") for claim in CLAIMS)


class WebIdentities:
    """Verifies tokens of all trusted issuers."""

    def __init__(self, issuers: Sequence[Issuer] = ()) -> None:
        self._issuers: Mapping[str, Issuer] = {issuer.url: issuer for issuer in issuers}

    async def authenticate(self, token: str, now: datetime) -> AuthenticatedCaller:
        """Return the bearer of a token as caller.

        Raises InvalidIdentityTokenException, ExpiredWebIdentityTokenException, IDPCommunicationErrorException.
        """
        header, claims = _unverified(token)
        issuer = self._issuers.get(claims.iss)
        if issuer is None:
            raise InvalidIdentityTokenException(
                f"No OpenIDConnect provider found in your account for {claims.iss[:200]}"
            )
        keys = await issuer.keys.candidates(header.kid)
        _check_signature(token, header, keys)
        _check_time(claims, now)
        audience = next((one for one in claims.audiences if one in issuer.audiences), None)
        if audience is None:
            raise InvalidIdentityTokenException("Incorrect token audience")
        return AuthenticatedCaller(_caller(issuer, claims, audience))


def _unverified(token: str) -> tuple[_Header, _Claims]:
    """Take a token apart, to find the key that must have signed it. Raises InvalidIdentityTokenException."""
    try:
        parts = _jws.decode_complete(token, options={"verify_signature": False})
        header = msgspec.convert(parts["header"], _Header)
        claims = msgspec.json.decode(parts["payload"], type=_Claims)
    except (jwt.PyJWTError, msgspec.DecodeError, ValueError) as exc:
        raise InvalidIdentityTokenException(_NOT_A_JWT, detail=f"{type(exc).__name__}") from exc
    if header.alg not in ALGORITHMS or header.crit is not None:
        raise InvalidIdentityTokenException(
            "The ID Token provided is not signed by a permitted algorithm.", detail=f"alg {header.alg[:20]!r}"
        )
    return header, claims


def _check_signature(token: str, header: _Header, keys: Sequence[Jwk]) -> None:
    """Check that one of the issuer's keys made the signature. Raises InvalidIdentityTokenException."""
    for jwk in keys:
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", header.alg) != header.alg:
            continue
        try:
            key = jwt.PyJWK(dict(jwk), algorithm=header.alg).key
            if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
                continue
            _jws.decode_complete(token, key=key, algorithms=[header.alg])
        except (jwt.PyJWTError, ValueError, TypeError):  # a key that is none, or not of this kind, and a bad signature
            continue
        return
    raise InvalidIdentityTokenException(_BAD_SIGNATURE, detail=f"kid {(header.kid or '')[:100]!r}")


def _check_time(claims: _Claims, now: datetime) -> None:
    at, skew = now.astimezone(UTC).timestamp(), SKEW.total_seconds()
    if claims.exp + skew <= at:
        raise ExpiredWebIdentityTokenException("Token expired: the claim exp is in the past")
    if max(claims.iat, claims.nbf) > at + skew:
        raise InvalidIdentityTokenException("The ID Token is not valid yet: the claim iat or nbf is in the future")


def _caller(issuer: Issuer, claims: _Claims, audience: str) -> Caller:
    values: dict[str, str | tuple[str, ...] | None] = {
        "aud": audience,
        "oaud": claims.aud if claims.azp is not None else None,
        "sub": claims.sub,
        "amr": claims.amr,
        "email": claims.email,
    }
    found = {fold(f"{issuer.name}:{claim}"): value for claim, value in values.items() if value}
    return Caller(
        principal_type=PrincipalType.WEB_IDENTITY,
        arn=issuer.arn,
        account=issuer.account,
        principal_id=f"{issuer.url}:{audience}:{claims.sub}",
        user_name=claims.sub,
        identity_provider=issuer.arn,
        web_identity=WebIdentity(
            issuer.url,
            audience,
            claims.sub,
            found,
            {name: tag if isinstance(tag, str) else tag[0] for name, tag in claims.tags.principal_tags.items()},
            claims.tags.transitive_tag_keys,
            claims.source_identity,
        ),
    )
