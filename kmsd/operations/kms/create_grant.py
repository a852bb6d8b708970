"""CreateGrant: let a principal use a key, with optional constraints."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from kmsd.authz.grant_delegation import may_delegate
from kmsd.authz.request import Denied
from kmsd.custody import grant_tokens
from kmsd.domain.grant import Grant
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.domain.principal import check_principal
from kmsd.errors import (
    AccessDeniedException,
    InvalidArnException,
    LimitExceededException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation, WriteCall
from kmsd.operations.kms import shapes
from kmsd.operations.kms.grant_operations import grantable
from kmsd.operations.kms.symmetric import refuse

MAX_PAIRS = 8
MAX_PART_LENGTH = 384


class Request(shapes.Shape, frozen=True):
    """Reference: CreateGrant, Request Parameters; `DryRun` and service principals are newer."""

    key_id: shapes.KeyId
    grantee_principal: shapes.Principal
    # "Required: No" in the reference. But a grant without operations is useless, and current clients must send them.
    operations: shapes.GrantOperations
    retiring_principal: shapes.Principal | None = None
    constraints: shapes.GrantConstraints | None = None
    grant_tokens: shapes.GrantTokens = []
    name: shapes.GrantName | None = None
    dry_run: bool | None = None
    grantee_service_principal: shapes.ServicePrincipal | None = None
    retiring_service_principal: shapes.ServicePrincipal | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: CreateGrant, Response Elements."""

    grant_token: shapes.GrantToken
    grant_id: shapes.GrantId


async def handle(request: Request, call: WriteCall) -> Response:
    """Create the grant. It is effective for every request that starts after the response."""
    grant = _grant(request, call)
    _check_delegation(grant, call)
    sealer = await call.service_sealer()
    existing = await _same(grant, call)
    if existing is not None:
        return Response(grant_token=await grant_tokens.issue(existing, sealer), grant_id=existing.grant_id)
    most = call.dependencies.quotas.grants_per_key
    if await call.reader.count_grants(grant.key_id) >= most:
        raise LimitExceededException(f"{call.key.arn} has {most} grants, which is the limit.")
    await call.transaction.insert_grant(grant)
    return Response(grant_token=await grant_tokens.issue(grant, sealer), grant_id=grant.grant_id)


def _grant(request: Request, call: Call) -> Grant:
    """Return the requested grant. Raises `ServiceError` for members that do not make a valid grant."""
    refuse(request, "grantee_service_principal", "retiring_service_principal")
    check_operations(request.operations, call.key)
    constraints = request.constraints or shapes.GrantConstraints()
    refuse(constraints, "source_arn")
    equals, subset = constraints.encryption_context_equals, constraints.encryption_context_subset
    if equals is not None and subset is not None:
        raise ValidationException("More than one constraint supplied")
    check_constraint(call.key, equals or subset or {})
    check_principal(request.grantee_principal, call.dependencies.arns.partition)
    if request.retiring_principal is not None:
        check_principal(request.retiring_principal, call.dependencies.arns.partition)
    return Grant(
        grant_id=secrets.token_hex(32),
        key_id=call.key.key_id,
        name=request.name,
        grantee_principal=request.grantee_principal,
        retiring_principal=request.retiring_principal,
        operations=tuple(dict.fromkeys(request.operations)),
        encryption_context_equals=equals,
        encryption_context_subset=subset,
        issuing_account=call.caller.account,
        issuing_principal=call.caller.arn,
        created_at=call.now,
    )


def check_operations(operations: Sequence[str], key: Key) -> None:
    """Check that a grant on `key` may allow these. Raises ValidationException."""
    if not operations:
        raise ValidationException("At least one operation must be specified in the grant.")
    allowed = grantable(key)
    foreign = [operation for operation in operations if operation not in allowed]
    if foreign:
        raise ValidationException(f"Operations {', '.join(foreign)} are not valid for {key.arn}.")


def check_constraint(key: Key, pairs: Mapping[str, str]) -> None:
    """Check the pairs of a grant's constraint. Raises ValidationException, LimitExceededException."""
    if pairs and key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise ValidationException(f"Grant constraints are not valid for {key.arn}: its key spec is {key.spec}.")
    if len(pairs) > MAX_PAIRS or any(len(part) > MAX_PART_LENGTH for pair in pairs.items() for part in pair):
        raise LimitExceededException(
            f"A grant constraint can have {MAX_PAIRS} pairs of at most {MAX_PART_LENGTH} characters."
        )


def _check_delegation(grant: Grant, call: Call) -> None:
    """Check that a grantee delegates no more than its own grant allows. Raises AccessDeniedException."""
    target = call.targets[0]
    if target.authorization_request is None or target.decision is None:
        raise AccessDeniedException(detail="CreateGrant was not authorised")
    decision = may_delegate(target.authorization_request, target.decision, grant)
    if isinstance(decision, Denied):
        raise AccessDeniedException(decision.message, detail=decision.reason)


async def _same(grant: Grant, call: Call) -> Grant | None:
    """Return the grant that an identical request has created before.

    "When this value [Name] is absent, all requests result in a new grant … even if all the supplied parameters are
    identical."
    """
    if grant.name is None:
        return None
    candidates = await call.reader.grants_named(grant.key_id, grant.name)
    return next((found for found in candidates if found.terms == grant.terms), None)


OPERATION = Operation(
    KMS,
    "CreateGrant",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.GRANTABLE),),
    raises=(InvalidArnException, LimitExceededException, UnsupportedOperationException),
    writes=True,
    delegates=True,
    grantable=frozenset(KeySpec),
)
