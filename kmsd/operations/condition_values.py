"""Circumstances of a call: the source of condition values in policies."""

from __future__ import annotations

from typing import Any

import msgspec

from kmsd.authz.circumstances import Circumstances
from kmsd.authz.condition_keys import ABOUT_THE_RESOURCE, mentions
from kmsd.custody import resource_facts
from kmsd.domain.principal import Caller
from kmsd.operations.declaration import Call, Operation, Target


async def circumstances_of(
    operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call, policies: tuple[str, ...]
) -> Circumstances:
    """Return the circumstances for one target. Aliases and tags are read only if one of `policies` may use them."""
    key, source = target.key, call.source
    aliases, tags = await resource_facts.of_key(call.reader, key, policies, call.now)
    if target.resource_tags is not None and any(mentions(text, *ABOUT_THE_RESOURCE) for text in policies):
        tags = await target.resource_tags()
    return Circumstances(
        now=call.now,
        region=call.dependencies.arns.region,
        address=source.address,
        user_agent=source.user_agent,
        is_secure=source.tls_version is not None,
        request=request,
        key=key,
        alias=target.alias,
        aliases=aliases,
        tags=tags,
        creates=operation.creates,
        reencrypts_on_same_key=_on_same_key(request, call),
    )


def policies_of(caller: Caller) -> tuple[str, ...]:
    """Return the identity policies and session policies of the caller."""
    return (*caller.identity_policies, *(caller.session_policies or ()))


def _on_same_key(request: msgspec.Struct, call: Call) -> bool | None:
    if not hasattr(request, "destination_key_id"):
        return None
    keys = {target.key.key_id for target in call.targets if target.key is not None}
    return len(keys) == 1
