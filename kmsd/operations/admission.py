"""Admission of a call before its handler runs: find the targets, authorise them, check their state."""

from __future__ import annotations

from typing import Any

import msgspec

from kmsd.authz.evaluate import is_unconditional
from kmsd.authz.request import AuthorizationRequest, Denied
from kmsd.custody import grant_tokens
from kmsd.errors import AccessDeniedException
from kmsd.operations import decision_cache
from kmsd.operations.condition_values import circumstances_of, policies_of
from kmsd.operations.declaration import Access, Call, Operation, Target, context_of

UNKNOWN_CIPHERTEXT = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are "
    "not allowed to access."
)


async def admit(operation: Operation[Any, Any], request: msgspec.Struct, call: Call) -> None:
    """Find, authorise and check the state of everything that the operation accesses; fills `call.targets`.

    All targets are authorised before any state is checked, so a caller without permission learns nothing of a key's
    state.
    """
    tokens = getattr(request, "grant_tokens", None)
    if tokens:
        await grant_tokens.check(tokens, call.reader, await call.service_sealer())
    reached: list[tuple[Access, Target]] = []
    for access in operation.access:
        for target in await access.find(request, call):
            reached.append((access, target))
            call.targets.append(target)
    for access, target in reached:
        if access.asks_permission:
            await _permit(operation, access, target, request, call)
    for access, target in reached:
        access.check(operation, target, request, call)


async def _permit(
    operation: Operation[Any, Any], access: Access, target: Target, request: msgspec.Struct, call: Call
) -> None:
    """Authorise one target and set its decision. Raises AccessDeniedException."""
    key, caller = target.key, call.caller
    remembers = not access.has_own_rule
    if key is not None and remembers and not operation.delegates:
        target.decision = decision_cache.get(action_of(operation, access), key, caller)
        if target.decision is not None:
            return
    auth_request, decision = access.decide(
        await authorization_request(operation, access, target, request, call), target
    )
    if target.absent:
        raise _absent(target, auth_request)
    if isinstance(decision, Denied):
        raise AccessDeniedException(_concealed(target, auth_request) or decision.message, detail=decision.reason)
    if key is not None and remembers and is_unconditional(auth_request, decision):
        decision_cache.put(auth_request.action, key, caller, decision)
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
            action=action_of(operation, access),
            resource=target.arn,
            resource_account=caller.account,
            circumstances=await circumstances_of(operation, target, request, call, policies),
        )
    return AuthorizationRequest(
        caller=caller,
        action=action_of(operation, access),
        resource=target.arn,
        resource_account=key.account,
        resource_policy=key.policy,
        grants=await call.reader.grants_to(key.key_id, caller.grantee_names),
        encryption_context=context_of(access, request),
        circumstances=await circumstances_of(operation, target, request, call, (key.policy, *policies)),
    )


def action_of(operation: Operation[Any, Any], access: Access) -> str:
    """Return the action that authorises one access of an operation."""
    action = getattr(access, "action", None)
    return operation.action if action is None else f"{operation.service.scope}:{action}"
