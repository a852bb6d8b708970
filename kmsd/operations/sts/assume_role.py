"""AssumeRole: act as a role whose trust policy lets one."""

from __future__ import annotations

import re
from typing import NoReturn

from msgspec.structs import replace

from kmsd.authz.evaluate import authorize
from kmsd.authz.new_policy import parse_new
from kmsd.authz.request import Denied, Query
from kmsd.custody import session_tokens
from kmsd.custody.session_sealer import SessionBox
from kmsd.domain.identity import Role
from kmsd.domain.policy import PolicyKind
from kmsd.domain.principal import PrincipalType
from kmsd.errors import (
    AccessDeniedException,
    MalformedPolicyDocumentException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.access import Unrestricted
from kmsd.operations.condition_values import circumstances_of
from kmsd.operations.declaration import STS, Call, Operation, Target
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse
from kmsd.operations.sts import shapes as sts_shapes
from kmsd.operations.sts.credentials import credentials

DEFAULT_SECONDS = 3600
CHAINED_SECONDS = 3600
"""The longest session of a role that was assumed by another role's session ("role chaining")."""
_ROLE = re.compile(r"arn:(?P<partition>[a-z-]+):iam::(?P<account>[0-9]{12}):role/(?P<name>[\w+=,.@-]+)", re.ASCII)
ACCESS = Unrestricted("the role's trust policy decides; the handler asks for it")


class Request(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRole."""

    role_arn: sts_shapes.RoleArn
    role_session_name: sts_shapes.RoleSessionName
    policy: sts_shapes.SessionPolicy | None = None
    duration_seconds: sts_shapes.RoleDuration | None = None
    external_id: sts_shapes.ExternalId | None = None
    policy_arns: list[sts_shapes.PolicyDescriptor] | None = None
    tags: list[sts_shapes.SessionTag] | None = None
    transitive_tag_keys: list[str] | None = None
    serial_number: sts_shapes.SerialNumber | None = None
    token_code: sts_shapes.TokenCode | None = None
    source_identity: sts_shapes.SourceIdentity | None = None
    provided_contexts: sts_shapes.ProvidedContexts | None = None
    minimum_session_token_size: sts_shapes.SessionTokenSize | None = None


class Response(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRole."""

    credentials: sts_shapes.Credentials
    assumed_role_user: sts_shapes.AssumedRoleUser


async def handle(request: Request, call: Call) -> Response:
    """The session may do what the role may, within the session policy."""
    refuse(
        request,
        "policy_arns",
        "tags",
        "transitive_tag_keys",
        "serial_number",
        "token_code",
        "source_identity",
        "provided_contexts",
        "minimum_session_token_size",
    )
    role = await _authorised(request, call)
    seconds = _duration(request, role, call)
    if request.policy is not None:
        parse_new(request.policy, kind=PolicyKind.SESSION)
    policies = None if request.policy is None else (request.policy,)
    name = request.role_session_name
    made = await session_tokens.for_role(
        await SessionBox.made(call.world.store, call.token),
        role,
        name,
        now=call.now,
        seconds=seconds,
        policies=policies,
    )
    return Response(
        credentials=credentials(made),
        assumed_role_user=sts_shapes.AssumedRoleUser(
            assumed_role_id=f"{role.role_id}:{name}",
            arn=call.world.place.assumed_role(role.account, role.name, name),
        ),
    )


async def _authorised(request: Request, call: Call) -> Role:
    """The role, if the caller may assume it. A role that does not exist answers as one that may not be assumed."""
    named = _ROLE.fullmatch(request.role_arn)
    if named is None or named["partition"] != call.world.place.partition:
        raise ValidationException(f"{request.role_arn} is invalid")
    role = await call.books.role(named["account"], named["name"])
    if role is None:
        _deny(request, call, "the role does not exist")
    target = Target(arn=role.arn)
    circumstances = await circumstances_of(OPERATION, target, request, call, ())
    query = Query(
        caller=call.caller,
        action=OPERATION.action,
        resource=role.arn,
        resource_account=role.account,
        resource_policy=role.trust_policy,
        circumstances=replace(circumstances, tags=role.tags),
    )
    decision = authorize(query)
    if isinstance(decision, Denied):
        _deny(request, call, decision.reason)
    target.decision, target.query = decision, query
    call.targets[:] = [target]
    return role


def _deny(request: Request, call: Call, reason: str) -> NoReturn:
    raise AccessDeniedException(
        f"User: {call.caller.arn} is not authorized to perform: sts:AssumeRole on resource: {request.role_arn}",
        detail=reason,
    )


def _duration(request: Request, role: Role, call: Call) -> int:
    chained = call.caller.principal_type is PrincipalType.ASSUMED_ROLE
    if request.duration_seconds is None:
        return min(DEFAULT_SECONDS, role.max_session_seconds)
    if chained and request.duration_seconds > CHAINED_SECONDS:
        raise ValidationException(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
        )
    if request.duration_seconds > role.max_session_seconds:
        raise ValidationException("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    return request.duration_seconds


OPERATION: Operation[Request, Response] = Operation(
    STS,
    "AssumeRole",
    Request,
    Response,
    handle,
    access=(ACCESS,),
    raises=(MalformedPolicyDocumentException, UnsupportedOperationException),
)
