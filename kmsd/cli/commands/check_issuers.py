"""`kmsd check`: issuers of web tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kmsd.cli.commands.check_findings import OK, WARN, Finding
from kmsd.config.sections import Config
from kmsd.daemon.issuers import keys_of_issuer
from kmsd.wire.web_identity.issuer_keys import IssuerUnavailable

TOPIC = "issuers"


async def findings(config: Config) -> AsyncIterator[Finding]:
    """Yield for each configured issuer the number of its keys, or why they cannot be had."""
    for one in config.web_identity:
        try:
            keys = await keys_of_issuer(one)()
        except IssuerUnavailable as exc:
            yield Finding(WARN, TOPIC, f"{one.issuer}: no keys, so its tokens are refused: {exc}")
        else:
            yield Finding(OK, TOPIC, f"{one.issuer}: {len(keys)} keys")
