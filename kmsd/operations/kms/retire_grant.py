"""RetireGrant: delete a grant, by principals that the grant itself names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from kmsd.authz.grant_retirement import may_retire
from kmsd.authz.request import AuthorizationRequest, Decision
from kmsd.custody import grant_tokens
from kmsd.domain.arn import parse_key_name
from kmsd.domain.grant import Grant, check_grant_id
from kmsd.domain.key_spec import KeySpec
from kmsd.errors import (
    InvalidArnException,
    InvalidGrantIdException,
    InvalidGrantTokenException,
    NotFoundException,
    ValidationException,
)
from kmsd.operations.declaration import KMS, Access, Call, Operation, Target, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: RetireGrant, Request Parameters: a grant token, or a key ARN and a grant id."""

    grant_token: shapes.GrantToken | None = None
    key_id: shapes.KeyId | None = None
    grant_id: shapes.GrantId | None = None
    dry_run: bool | None = None


async def handle(_: Request, call: WriteCall) -> None:
    """Delete the grant. No process uses it after the response. Works in every key state."""
    await call.transaction.delete_grant(_grant_in(call.targets[0]).grant_id)


def _grant_in(target: Target) -> Grant:
    if not isinstance(target.resource, Grant):
        raise TypeError("no grant was found")
    return target.resource


async def _find(request: Request, call: Call) -> Grant:
    """Find the grant by grant token, or by key and grant id."""
    if request.grant_token is not None:
        if request.key_id is not None or request.grant_id is not None:
            raise ValidationException("Specify either a grant token, or a key ARN and a grant ID.")
        return await grant_tokens.grant_of(request.grant_token, call.reader, await call.service_sealer())
    if request.key_id is None or request.grant_id is None:
        raise ValidationException("Specify either a grant token, or a key ARN and a grant ID.")
    check_grant_id(request.grant_id)
    name = parse_key_name(
        request.key_id, caller_account=call.caller.account, arns=call.dependencies.arns, aliases=False
    )
    grant = await call.reader.grant(request.grant_id)
    if grant is None or grant.key_id != name.key_id:
        raise NotFoundException(f"Grant ID {request.grant_id} not found")
    return grant


class OnGrant(Access, frozen=True):
    """The grant in the request, and its key. The grant decides who may retire it, not the key policy."""

    has_own_rule: ClassVar[bool] = True

    def words(self) -> str:
        """Describe the grant by the members of the request."""
        return "the grant that `grant_token`, or `key_id` and `grant_id`, name"

    async def find(self, request: Any, call: Call) -> Sequence[Target]:
        """Find the grant and its key.

        Raises NotFoundException, InvalidGrantIdException, InvalidGrantTokenException, ValidationException.
        """
        grant = await _find(request, call)
        key = await call.reader.key(grant.key_id)
        if key is None or not key.exists_at(call.now):
            raise NotFoundException(f"Grant ID {grant.grant_id} not found")
        call.response_keys, call.grant_id = (key.arn,), grant.grant_id
        return (Target(arn=key.arn, key=key, resource=grant),)

    def decide(self, auth_request: AuthorizationRequest, target: Target) -> tuple[AuthorizationRequest, Decision]:
        """Decide by the grant. Conditions see the grant's own constraint."""
        grant = _grant_in(target)
        # In RetireGrant, "kms:GrantConstraintType" and "kms:EncryptionContext:…" are those of the grant (Service
        # Authorization Reference).
        request_for_grant = replace(
            auth_request,
            encryption_context=grant.encryption_context_equals or grant.encryption_context_subset or {},
            circumstances=replace(auth_request.circumstances, grant=grant),
        )
        return request_for_grant, may_retire(request_for_grant, grant)


OPERATION: Operation[Request, None] = Operation(
    KMS,
    "RetireGrant",
    Request,
    None,
    handle,
    access=(OnGrant(),),
    raises=(InvalidArnException, InvalidGrantIdException, InvalidGrantTokenException, NotFoundException),
    writes=True,
    grantable=frozenset(KeySpec),
)
