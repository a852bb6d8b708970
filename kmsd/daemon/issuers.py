"""The issuers of web tokens that the configuration trusts."""

from __future__ import annotations

from kmsd.app import arn_scope_of
from kmsd.config.sections import Config, IssuerConfig
from kmsd.wire.web_identity import sources
from kmsd.wire.web_identity.issuer_keys import Fetch, IssuerKeys
from kmsd.wire.web_identity.verification import Issuer, WebIdentities, condition_keys_of, issuer_name


def keys_of_issuer(issuer: IssuerConfig) -> Fetch:
    """Return the source of the public keys of an issuer of web tokens."""
    return sources.of_url(issuer.issuer, issuer.ca) if issuer.jwks is None else sources.of_file(issuer.jwks)


def web_identities_of(config: Config) -> WebIdentities:
    """Return what verifies the web tokens of the configured issuers."""
    return WebIdentities(
        [
            Issuer(
                one.issuer,
                _issuer_arn(config, one),
                one.account or config.account,
                frozenset(one.audiences),
                IssuerKeys(one.issuer, keys_of_issuer(one)),
            )
            for one in config.web_identity
        ]
    )


def _issuer_arn(config: Config, issuer: IssuerConfig) -> str:
    return arn_scope_of(config).identity_provider(issuer.account or config.account, issuer_name(issuer.issuer))


def issuer_arns(config: Config) -> frozenset[str]:
    """Return the ARNs of all configured issuers."""
    return frozenset(_issuer_arn(config, one) for one in config.web_identity)


def issuer_claims(config: Config) -> frozenset[str]:
    """Return the folded condition keys of the claims of all configured issuers."""
    return frozenset(key for one in config.web_identity for key in condition_keys_of(one.issuer))
