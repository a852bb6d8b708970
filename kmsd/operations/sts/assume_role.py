"""AssumeRole: issue temporary credentials for a role whose trust policy allows the caller."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from kmsd.authz.evaluate import authorize
from kmsd.authz.new_policy import parse_new
from kmsd.authz.request import AuthorizationRequest, Decision, Denied
from kmsd.custody import session_tokens
from kmsd.custody.session_sealer import SessionSealer
from kmsd.custody.session_tokens import SessionAttributes
from kmsd.domain.identity import Role
from kmsd.domain.policy import PolicyKind
from kmsd.domain.principal import PrincipalType
from kmsd.errors import (
    MalformedPolicyDocumentException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.declaration import STS, Access, Call, Operation, Target
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse
from kmsd.operations.sts import shapes as sts_shapes
from kmsd.operations.sts.credentials import credentials
from kmsd.operations.sts.session_attributes import attributes_of

DEFAULT_SECONDS = 3600
CHAINED_SECONDS = 3600
"""Maximum session duration of a role that another role's session assumes ("role chaining"), in seconds."""
_ROLE = re.compile(r"arn:(?P<partition>[a-z-]+):iam::(?P<account>[0-9]{12}):role/(?P<name>[\w+=,.@-]+)", re.ASCII)


class Request(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRole."""

    role_arn: sts_shapes.RoleArn
    role_session_name: sts_shapes.RoleSessionName
    policy: sts_shapes.SessionPolicy | None = None
    duration_seconds: sts_shapes.RoleDuration | None = None
    external_id: sts_shapes.ExternalId | None = None
    policy_arns: list[sts_shapes.PolicyDescriptor] | None = None
    tags: sts_shapes.SessionTags | None = None
    transitive_tag_keys: sts_shapes.TransitiveTagKeys | None = None
    serial_number: sts_shapes.SerialNumber | None = None
    token_code: sts_shapes.TokenCode | None = None
    source_identity: sts_shapes.SourceIdentity | None = None
    provided_contexts: sts_shapes.ProvidedContexts | None = None
    minimum_session_token_size: sts_shapes.SessionTokenSize | None = None


class Response(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRole."""

    credentials: sts_shapes.Credentials
    assumed_role_user: sts_shapes.AssumedRoleUser
    source_identity: str | None = None


async def handle(request: Request, call: Call) -> Response:
    """Issue a session with the role's permissions, limited by the session policy."""
    refuse(
        request,
        "policy_arns",
        "serial_number",
        "token_code",
        "provided_contexts",
        "minimum_session_token_size",
    )
    attributes = attributes_of(request, call.caller)
    made, user = await issue(request, call, attributes)
    return Response(credentials=made, assumed_role_user=user, source_identity=attributes.source_identity or None)


async def issue(
    request: Any, call: Call, attributes: SessionAttributes
) -> tuple[sts_shapes.Credentials, sts_shapes.AssumedRoleUser]:
    """Issue a session of the role that was found for the call.

    `request` is of AssumeRole or AssumeRoleWithWebIdentity. Raises ValidationException,
    MalformedPolicyDocumentException.
    """
    name, policy = request.role_session_name, request.policy
    role = _role_in(call.targets[0])
    seconds = _duration(request.duration_seconds, role, call)
    if policy is not None:
        parse_new(policy, kind=PolicyKind.SESSION)
    made = await session_tokens.for_role(
        await SessionSealer.made(call.dependencies.store, call.token),
        role,
        name,
        now=call.now,
        seconds=seconds,
        policies=None if policy is None else (policy,),
        attributes=attributes,
    )
    user = sts_shapes.AssumedRoleUser(
        assumed_role_id=f"{role.role_id}:{name}",
        arn=call.dependencies.arns.assumed_role(role.account, role.name, name),
    )
    return credentials(made), user


class OnRole(Access, frozen=True):
    """The role in `role_arn`. Its trust policy decides, with the caller's identity policies."""

    has_own_rule: ClassVar[bool] = True

    def words(self) -> str:
        """Describe the role by its member."""
        return "role `role_arn`"

    async def find(self, request: Any, call: Call) -> Sequence[Target]:
        """Return the role as target, even if it does not exist: it is then refused like a forbidden one.

        Raises ValidationException for a text that cannot be the ARN of a role.
        """
        named = _ROLE.fullmatch(request.role_arn)
        if named is None or named["partition"] != call.dependencies.arns.partition:
            raise ValidationException(f"{request.role_arn} is invalid")
        return (Target(arn=request.role_arn, resource=await call.reader.role(named["account"], named["name"])),)

    def decide(self, auth_request: AuthorizationRequest, target: Target) -> tuple[AuthorizationRequest, Decision]:
        """Decide by the trust policy. Conditions see the role's tags."""
        caller, action = auth_request.caller, auth_request.action
        message = f"User: {caller.arn} is not authorized to perform: {action} on resource: {target.arn}"
        if caller.principal_type is PrincipalType.WEB_IDENTITY:
            message = f"Not authorized to perform {action}"
        role = target.resource
        if not isinstance(role, Role):
            return auth_request, Denied("the role does not exist", message)
        request_for_role = replace(
            auth_request,
            resource_account=role.account,
            resource_policy=role.trust_policy,
            circumstances=replace(auth_request.circumstances, tags=role.tags),
        )
        decision = authorize(request_for_role)
        return request_for_role, Denied(decision.reason, message) if isinstance(decision, Denied) else decision


class OnRoleOf(OnRole, frozen=True):
    """The role again, for a further action, if the session gets or inherits an attribute."""

    action: str
    """The action to authorise."""
    attribute: str
    """A field of `SessionAttributes`."""

    def words(self) -> str:
        """Describe the action, and when it is authorised."""
        return f"sts:{self.action} on the role, if the session gets `{self.attribute}`"

    async def find(self, request: Any, call: Call) -> Sequence[Target]:
        """Return the role; nothing if the session does not have the attribute. Raises ValidationException."""
        has = getattr(attributes_of(request, call.caller), self.attribute)
        return await super().find(request, call) if has else ()


ASSUMED = (OnRole(), OnRoleOf("TagSession", "tags"), OnRoleOf("SetSourceIdentity", "source_identity"))
"""The accesses of a request that assumes a role."""


def _role_in(target: Target) -> Role:
    if not isinstance(target.resource, Role):
        raise TypeError("no role was found")
    return target.resource


def _duration(duration: int | None, role: Role, call: Call) -> int:
    chained = call.caller.principal_type is PrincipalType.ASSUMED_ROLE
    if duration is None:
        return min(DEFAULT_SECONDS, role.max_session_seconds)
    if chained and duration > CHAINED_SECONDS:
        raise ValidationException(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
        )
    if duration > role.max_session_seconds:
        raise ValidationException("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    return duration


OPERATION: Operation[Request, Response] = Operation(
    STS,
    "AssumeRole",
    Request,
    Response,
    handle,
    access=ASSUMED,
    raises=(MalformedPolicyDocumentException, UnsupportedOperationException),
)
