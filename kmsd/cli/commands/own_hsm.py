"""Nodes with an HSM of their own, which holds the same domain keys (`kmsd join --hsm`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kmsd import __version__
from kmsd.app import SystemClock
from kmsd.cloudwatch_logs.data_keys import SERVICE_KEY
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.custody import provisioning, shared_service_keys
from kmsd.domain.material import TokenName
from kmsd.exit_codes import InputRefused
from kmsd.ports import AUDIT, Reader, Store, Token

NEXT_STEP = (
    "Its HSM has none of the domain keys yet, so the node is not ready. Hand new ones on: kmsd domain-key accept here, "
    "kmsd domain-key transfer and then rotate on a node that is ready (docs/key-ceremony.md)"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def require_name(name: str) -> None:
    """Raise `ConfigError` if an HSM cannot have this name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be an HSM's name: 1 to 32 lower-case letters, digits and hyphens")


def called(hsm: str) -> str:
    """Return an HSM for people."""
    return f"the HSM {hsm}" if hsm else "the HSM of the first node"


async def require_wrapped(config: Config, reader: Reader, *, accept_objects: bool) -> None:
    """Check that another HSM with the same domain keys could serve what the database has.

    Raises `InputRefused` with the first reason and what to do, `ConfigError`.
    """
    if TokenName.MAIN not in config.wraps:
        raise ConfigError('a node with an HSM of its own needs custody = "wrapped" below [token] (docs/custody.md)')
    older = [node.name for node in await reader.nodes() if node.version != __version__]
    if older:
        raise InputRefused(f"these nodes run another version of kmsd: {', '.join(older)}. Upgrade them first")
    lacking = await shared_service_keys.not_shared(reader, [SERVICE_KEY])
    if lacking:
        raise InputRefused(
            f"{lacking[0]} is of one HSM alone, and {len(lacking) - 1} more are. First, on a node of that HSM: "
            "kmsd custody move --service-keys"
        )
    objects = [one.owner for one in await reader.token_objects() if one.owner.startswith(("key:", "imported:"))]
    if objects and not accept_objects:
        raise InputRefused(
            f"{len(objects)} key materials are objects in one HSM, such as that of {objects[0]}: this node could not "
            "use them. Rotate what can be rotated (kmsd custody move --all); or --accept-objects"
        )


async def lacking(reader: Reader, domain_key_ids: Iterable[bytes]) -> dict[bytes, list[str]]:
    """Return, for each domain key, the HSMs of nodes that are not known to hold it; none, if all have the same HSM."""
    hsms, holders = {node.hsm for node in await reader.nodes()}, await reader.domain_key_holders()
    if len(hsms) < 2:  # noqa: PLR2004 (several)
        hsms = set()
    return {one: sorted(hsms - holders.get(one, frozenset())) for one in domain_key_ids}


async def require_other_token(reader: Reader, token: Token) -> None:
    """Raise `InputRefused` if a token is in another HSM of the database already."""
    elsewhere = {one.object_id for one in await reader.token_objects() if one.token.is_elsewhere}
    if elsewhere & {one.object_id for one in await token.list_objects()}:
        raise InputRefused(
            f"the token {token.info.label!r} (serial {token.info.serial}) is used by other nodes already: join without "
            "--hsm, or with the name that they have (kmsd node list)"
        )


async def create_objects(store: Store, token: Token, hsm: str) -> None:
    """Create the sentinel and the audit key in an HSM of its own, as far as they are missing."""
    if hsm:
        for purpose in (provisioning.SENTINEL, AUDIT):
            await provisioning.create_service_key(store, token, purpose, SystemClock().now())
