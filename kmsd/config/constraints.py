"""Constraints on the configuration that types cannot express."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kmsd.adapters.postgres.settings import BadUrl, DatabaseUrl
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import TokenName
from kmsd.ports.tokens import EVERYTHING

if TYPE_CHECKING:
    from kmsd.config.sections import Config, TokenConfig

RATES = ("cryptographic", "management", "logs", "sts")
"""Names of the rates of principals in `[rates]`."""
MIN_OBJECTS = 1000
"""Least value of `session_objects`: more than a start and all self-tests make."""


def _is_url(text: str) -> bool:
    """True for scheme, host and port only: anything more would be lost before a request's own path."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and plain and text.isprintable()


def _names_a_token(token: TokenConfig) -> bool:
    return bool(token.label or token.serial or token.slot is not None)


def _let_workers_start(config: Config) -> bool:
    """True if each token may make more objects than a worker does when it starts."""
    return all(one.session_objects >= MIN_OBJECTS for one in (config.token, *config.other_tokens.values()))


def constraints(config: Config) -> list[tuple[str, str, object]]:
    """Return a setting, the complaint about it, and a value that is true if the setting is right."""
    return [
        ("account", "must be 12 digits", re.fullmatch(r"[0-9]{12}", config.account)),
        ("region", "must look like us-east-1", re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]+", config.region)),
        ("partition", "must look like aws", re.fullmatch(r"aws(-[a-z]+)*", config.partition)),
        (
            "public_url",
            "must look like https://kms.example.com:8443",
            not config.public_url or _is_url(config.public_url),
        ),
        ("workers", "must be 1 to 64", 1 <= config.workers <= 64),  # noqa: PLR2004 (the bound itself)
        ("token", "needs label, serial or slot", _names_a_token(config.token)),
        ("token.sessions", "must be 1 to 64", 1 <= config.token.sessions <= 64),  # noqa: PLR2004 (as above)
        ("token.session_objects", f"must be {MIN_OBJECTS} or more", _let_workers_start(config)),
        ("audit.file_bytes", "must be 65536 or more", config.audit.file_bytes >= 65536),  # noqa: PLR2004 (as above)
        ("audit.checkpoint_lines", "must be 10 or more", config.audit.checkpoint_lines >= 10),  # noqa: PLR2004
        ("audit.checkpoint_seconds", "must be more than 0", config.audit.checkpoint_seconds > 0),
        ("audit.refusals_per_second", "must be 1 or more", config.audit.refusals_per_second >= 1),
        *_constraints_of_tokens(config),
        *_constraints_of_issuers(config),
        *_constraints_of_store(config),
        *_constraints_of_rates(config),
        ("listen.drain_seconds", "must be 0 to 15", 0 <= config.listen.drain_seconds <= 15),  # noqa: PLR2004 (as above)
        ("listen.leave_seconds", "must be 0 to 20", 0 <= config.listen.leave_seconds <= 20),  # noqa: PLR2004 (as above)
        ("import.stock", "must be 0 to 100", 0 <= config.import_.stock <= 100),  # noqa: PLR2004 (as above)
        (
            "listen",
            "needs tls_certificate and tls_key together",
            (config.listen.tls_certificate is None) == (config.listen.tls_key is None),
        ),
        (
            "metrics.tls",
            "needs tls_certificate in [listen]",
            not config.metrics.tls or config.listen.tls_certificate is not None,
        ),
    ]


def _constraints_of_tokens(config: Config) -> list[tuple[str, str, object]]:
    """Return the constraints of all tokens but the main one, as `constraints`."""
    names = [further.name for further in config.tokens]
    taken = {str(TokenName.MAIN), str(TokenName.IMPORT)}
    specs = {EVERYTHING, *KeySpec}
    return [
        *((name, "needs label, serial or slot", _names_a_token(token)) for name, token in config.other_tokens.items()),
        ("import_token.custody", "must be object: it holds no keys", TokenName.IMPORT not in config.wraps),
        ("tokens.name", "must look like pq-1", all(re.fullmatch(r"[a-z0-9-]{1,32}", name) for name in names)),
        ("tokens.name", "must be unique, and neither main nor import", len({*names} - taken) == len(names)),
        ("tokens.environment", "must not change what another token's module reads", _share_environment(config)),
        ("tokens.serves", "must name key specs, or *", all(specs.issuperset(one.serves) for one in config.tokens)),
    ]


def _constraints_of_issuers(config: Config) -> list[tuple[str, str, object]]:
    """Return the constraints of issuers of web tokens, as `constraints`."""
    issuers = config.web_identity
    names = [one.issuer for one in issuers]
    return [
        (
            "web_identity.issuer",
            "must look like https://idp.example.com/tenant",
            all(re.fullmatch(r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]+)?(/[\w.~-]+)*/?", one) for one in names),
        ),
        ("web_identity.issuer", "must be unique", len(set(names)) == len(names)),
        ("web_identity.audiences", "must not be empty", all(one.audiences for one in issuers)),
        (
            "web_identity.account",
            "must be 12 digits",
            all(re.fullmatch(r"([0-9]{12})?", one.account) for one in issuers),
        ),
    ]


def _share_environment(config: Config) -> bool:
    """True if no two tokens give one variable different values: their modules share the process's environment."""
    given: dict[str, str] = {}
    tokens = (config.token, *config.other_tokens.values())
    return all(given.setdefault(name, value) == value for one in tokens for name, value in one.environment.items())


def _constraints_of_rates(config: Config) -> list[tuple[str, str, object]]:
    rates = [getattr(config.rates, name) for name in RATES]
    burst = config.rates.burst_seconds
    return [
        ("rates", "must not be negative", min(*rates, config.rates.web_identity) >= 0),
        ("rates.burst_seconds", "must be 0.1 to 60", 0.1 <= burst <= 60),  # noqa: PLR2004 (as above)
        (
            "rates",
            "must let each worker grant a call within burst_seconds",
            all(rate == 0 or rate * burst >= config.workers for rate in rates),
        ),
    ]


def _constraints_of_store(config: Config) -> list[tuple[str, str, object]]:
    """Return the constraints of the database, as `constraints`."""
    store = config.store
    bounds = [
        ("store.questions_per_second", "must be 1 to 100000", 1 <= store.questions_per_second <= 100_000),  # noqa: PLR2004 (the bounds themselves)
        *(
            (f"store.{name}", "must be 0.1 to 60", 0.1 <= getattr(store, name) <= 60)  # noqa: PLR2004 (as above)
            for name in ("connect_seconds", "question_seconds", "call_seconds")
        ),
    ]
    if not store.url:
        return bounds
    try:
        url = DatabaseUrl.parse(store.url)
    except BadUrl as exc:
        return [("store.url", str(exc), False)]
    exposed = [str(host) for host in url.hosts if not host.is_local]
    return [
        *bounds,
        (
            "store.tls",
            f"must be verify: {', '.join(exposed)} is neither a Unix socket nor a loopback address",
            store.tls == "verify" or not exposed,
        ),
    ]
