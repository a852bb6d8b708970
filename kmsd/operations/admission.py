"""Admission of a call before its handler runs: find the targets, authorise them, check their state."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from kmsd.authz.evaluate import is_unconditional
from kmsd.authz.request import Allowed, AuthorizationRequest, Denied
from kmsd.custody import grant_tokens
from kmsd.domain.key import Key
from kmsd.domain.principal import Caller
from kmsd.errors import AccessDeniedException
from kmsd.operations.condition_values import circumstances_of, policies_of
from kmsd.operations.declaration import Access, Call, Operation, Target, context_of

UNKNOWN_CIPHERTEXT = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are "
    "not allowed to access."
)


MAX_DECISIONS = 10_000

_allowed: dict[tuple[str, str, str], tuple[Key, Caller, Allowed]] = {}
"""Decisions that depend on key, caller and action alone, by action, key id and access key id.

An entry is valid only for the `Key` and `Caller` objects that it was computed from. The store returns the same `Key`
until its row changes (policy or state), and the same credential until it or its user's policies change. Decisions that
depend on conditions or grants are never cached here. All entries are evicted when there are `MAX_DECISIONS`.
"""


async def admit(operation: Operation[Any, Any], request: msgspec.Struct, call: Call) -> None:
    """Find, authorise and check the state of everything that the operation accesses; fills `call.targets`.

    All targets are authorised before any state is checked, so a caller without permission learns nothing of a key's
    state.
    """
    tokens, caller = getattr(request, "grant_tokens", None), call.caller
    if tokens:
        await grant_tokens.check(tokens, call.reader, await call.service_sealer())
    reached: list[tuple[Access, str, Target]] = []
    for access, action in operation.actions:
        for target in await access.find(request, call):
            reached.append((access, action, target))
            if not call.targets:
                call.key = target.key or UNSET  # type: ignore[assignment]  # as the field says
            call.targets.append(target)
    for access, action, target in reached:
        if not access.asks_permission:
            continue
        key = target.key
        if key is not None and not access.has_own_rule and not operation.delegates:
            known = _allowed.get((action, key.key_id, caller.access_key_id))
            if known is not None and known[0] is key and known[1] is caller:
                target.decision = known[2]
                continue
        await _authorise(operation, access, target, request, call)
    for access, _, target in reached:
        access.check(operation, target, request, call)


async def _authorise(
    operation: Operation[Any, Any], access: Access, target: Target, request: msgspec.Struct, call: Call
) -> None:
    """Authorise one target and set its decision. Raises AccessDeniedException."""
    key, caller = target.key, call.caller
    auth_request, decision = access.decide(
        await authorization_request(operation, access, target, request, call), target
    )
    if target.absent:
        raise _absent(target, auth_request)
    if isinstance(decision, Denied):
        raise AccessDeniedException(_concealed(target, auth_request) or decision.message, detail=decision.reason)
    if key is not None and not access.has_own_rule and is_unconditional(auth_request, decision):
        if len(_allowed) >= MAX_DECISIONS:
            _allowed.clear()
        _allowed[auth_request.action, key.key_id, caller.access_key_id] = key, caller, decision
    target.decision, target.authorization_request = decision, auth_request


def _absent(target: Target, auth_request: AuthorizationRequest) -> AccessDeniedException:
    """Return the refusal for a target that does not exist. The audit record does not name its placeholder key."""
    named = target.named or ("" if target.blob is None else f"the key {target.blob.key_id} of the blob")
    reason = f"{named} does not exist"
    target.key, target.arn = None, target.named or "*"
    return AccessDeniedException(_concealed(target, auth_request), detail=reason)


def _concealed(target: Target, auth_request: AuthorizationRequest) -> str:
    """Return AWS's message for a refusal that must not reveal if the key exists; empty if the reason may be shown."""
    if target.by_blob:
        return UNKNOWN_CIPHERTEXT
    if target.named:
        return (
            f"User: {auth_request.caller.arn} is not authorized to perform: {auth_request.action} on resource: "
            f"{target.named} because the resource does not exist in this Region, no resource-based policies allow "
            "access, or a resource-based policy explicitly denies access"
        )
    return ""


async def authorization_request(
    operation: Operation[Any, Any], access: Access, target: Target, request: msgspec.Struct, call: Call
) -> AuthorizationRequest:
    """Return the authorization request for one target."""
    caller, key = call.caller, target.key
    policies = policies_of(caller)
    if key is None:
        return AuthorizationRequest(
            caller=caller,
            action=access.action_of(operation),
            resource=target.arn,
            resource_account=caller.account,
            circumstances=await circumstances_of(operation, target, request, call, policies),
        )
    return AuthorizationRequest(
        caller=caller,
        action=access.action_of(operation),
        resource=target.arn,
        resource_account=key.account,
        resource_policy=key.policy,
        grants=await call.reader.grants_to(key.key_id, caller.grantee_names),
        encryption_context=context_of(access, request),
        circumstances=await circumstances_of(operation, target, request, call, (key.policy, *policies)),
    )
