"""`kmsd check`: the token, its mechanisms, and what the API cannot do without them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from kmsd.app import Components, open_components
from kmsd.cli.commands import check_domain_keys
from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, WARN, Finding
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.custody import import_parameters
from kmsd.custody.message_counts import MAX_MESSAGES, ROTATE_AT_MESSAGES
from kmsd.custody.token_objects import PREFERRED
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.material import TokenName
from kmsd.ports import AuditUnavailable, Capabilities, KeyOffer, StoreError, TokenError

_HAS_ANOTHER_WAY = frozenset({"CKM_AES_ECB_ENCRYPT_DATA"})
"""Mechanisms that the daemon replaces by other means without any loss."""


async def findings(config: Config) -> AsyncIterator[Finding]:
    """Open the token with its PIN, in one attempt, and yield the findings."""
    try:
        async with open_components(config, "check") as components:
            for finding in (*_token(components), _sessions(config, components), *_further(config, components)):
                yield finding
            async for finding in _key_specs(components):
                yield finding
            async for finding in _imports(config, components):
                yield finding
            async for finding in _works(components):
                yield finding
            async for finding in _messages(components):
                yield finding
            async for finding in _objects(components):
                yield finding
            async for finding in check_domain_keys.findings(config, components):
                yield finding
    except ConfigError as exc:
        yield Finding(FAIL, "token", str(exc))
    except (StoreError, TokenError, AuditUnavailable) as exc:
        yield Finding(FAIL, "token", f"{type(exc).__name__}: {exc}")


def _token(components: Components) -> Iterator[Finding]:
    info, capabilities = components.token.info, components.token.capabilities
    yield Finding(OK, "token", f"token {info.label!r}, serial {info.serial}, {info.manufacturer} {info.model}")
    for mechanism in sorted(capabilities.mechanisms):
        yield Finding(OK, "token", f"mechanism {mechanism}")
    for mechanism, loss in capabilities.lacking:
        severity = NOTE if mechanism in _HAS_ANOTHER_WAY else WARN
        yield Finding(severity, "token", f"mechanism {mechanism} is lacking: {loss}")
    yield from _algorithms(capabilities)


def _algorithms(capabilities: Capabilities) -> Iterator[Finding]:
    """Yield the algorithm of new keys, and those whose blobs the token only decrypts."""
    best = next((algorithm for algorithm in PREFERRED if algorithm in capabilities.algorithms), None)
    if best is None:
        yield Finding(FAIL, "token", "the token can hold no keys of this API")
    else:
        yield Finding(OK, "token", f"new keys encrypt by {best.name}, algorithm {best.value} of docs/ciphertext.md")
    opened = ", ".join(algorithm.name for algorithm in sorted(capabilities.opens - capabilities.algorithms))
    if opened:
        text = f"blobs of {opened} are decrypted, and none are made: a key that has such material must be rotated"
        yield Finding(NOTE, "token", text)


def _sessions(config: Config, components: Components) -> Finding:
    """Compare the sessions needed: each worker has one to stay logged in and its pool; a reload doubles the workers."""
    needed = 2 * config.workers * (config.token.sessions + 1)
    most = components.token.info.max_sessions
    if most is None:
        return Finding(OK, "token", f"up to {needed} sessions are opened; the token names no limit")
    if most < needed:
        text = f"a reload opens up to {needed} sessions, and the token has {most}: lower workers or token.sessions"
        return Finding(WARN if most >= needed // 2 else FAIL, "token", text)
    return Finding(OK, "token", f"up to {needed} sessions are opened of the token's {most}")


def _further(config: Config, components: Components) -> Iterator[Finding]:
    """Yield whether each token of `[[tokens]]` is open."""
    for further in config.tokens:
        token = components.tokens.others.get(TokenName(further.name))
        if token is None:
            yield Finding(FAIL, "token", f"token {further.name} is away: its keys cannot be used")
        else:
            info = token.info
            text = f"token {further.name}: {info.label!r}, serial {info.serial}, {info.manufacturer} {info.model}"
            yield Finding(OK, "token", text)


async def _key_specs(components: Components) -> AsyncIterator[Finding]:
    """Yield one finding for each key spec: usages and algorithms that work, and the mechanism that others lack."""
    for name, token in components.tokens.items():
        if name == TokenName.IMPORT:
            continue
        where = "" if name == TokenName.MAIN else f" in token {name}"
        offers = await token.key_offers()
        for spec in dict.fromkeys(spec for spec, _ in offers):
            yield _key_spec(f"key spec {spec}{where}", {usage: o for (of, usage), o in offers.items() if of is spec})


def _key_spec(called: str, offers: Mapping[KeyUsage, KeyOffer]) -> Finding:
    works = "; ".join(f"{usage} by {', '.join(o.algorithms)}" for usage, o in offers.items() if o.algorithms)
    reasons: dict[str, list[str]] = {}
    for offer in offers.values():
        for algorithm, reason in offer.lacking.items():
            reasons.setdefault(reason, []).append(algorithm)
    lacking = "; ".join(f"{', '.join(algorithms)}: {reason}" for reason, algorithms in reasons.items())
    if not works:
        return Finding(NOTE, "token", f"{called} is lacking: CreateKey refuses it ({'; '.join(reasons)})")
    if lacking:
        return Finding(NOTE, "token", f"{called}: {works}; lacking {lacking}")
    return Finding(OK, "token", f"{called}: {works}")


async def _imports(config: Config, components: Components) -> AsyncIterator[Finding]:
    """Yield the wrapping algorithms for imports that work, are missing, refused or weak; and further key specs."""
    if config.import_token is not None:
        if components.tokens.imports is None:
            yield Finding(FAIL, "import", "the import token is away")
        else:
            info = components.tokens.imports.info
            text = f"import token {info.label!r}, serial {info.serial}, {info.manufacturer} {info.model}"
            yield Finding(OK, "import", text)
    offered = await import_parameters.offered(components.pipeline.dependencies.tokens)
    for algorithm in WrappingAlgorithm:
        name = offered.get(algorithm)
        called = f"wrapping algorithm {algorithm}"
        if algorithm in config.import_.refuse:
            yield Finding(OK, "import", f"{called} is refused by the configuration")
        elif name is None:
            yield Finding(NOTE, "import", f"{called} is lacking: GetParametersForImport refuses it")
        elif not algorithm.has_integrity:
            yield Finding(NOTE, "import", f"{called} works, and is weak: refuse it under [import]")
        else:
            where = "in the token" if name is TokenName.MAIN else "through the import token"
            yield Finding(OK, "import", f"{called} works {where}")
    specs = sorted((await components.tokens.main.import_capabilities()).specs)
    if specs:
        yield Finding(OK, "import", f"material of other keys is imported too: {', '.join(specs)}")
    else:
        yield Finding(NOTE, "import", "material of symmetric keys alone is imported")


async def _works(components: Components) -> AsyncIterator[Finding]:
    for topic, probe in (
        ("token", components.token.check),
        ("database", components.store.check),
        ("audit", components.sink.check),
    ):
        await probe()
        yield Finding(OK, topic, f"{topic} works")


async def _messages(components: Components) -> AsyncIterator[Finding]:
    """Find key material that nears the bound of AES-GCM with random nonces."""
    for object_id, owner, messages in await (await components.store.read()).counted_messages(ROTATE_AT_MESSAGES):
        text = f"object {object_id.hex()} of {owner} has encrypted {messages} of {MAX_MESSAGES} messages"
        yield Finding(WARN, "token", f"{text}: rotate the key, or import new material into another one")


async def _objects(components: Components) -> AsyncIterator[Finding]:
    malformed = [
        found for _, token in components.tokens.items() for found in await token.list_objects() if found.problem
    ]
    for found in malformed:
        yield Finding(FAIL, "token", f"object {found.object_id.hex()} ({found.kind}): {found.problem}")
    if not malformed:
        yield Finding(OK, "token", "every object has the attributes that its role promises")
