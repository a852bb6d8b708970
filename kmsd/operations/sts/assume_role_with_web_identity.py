"""AssumeRoleWithWebIdentity: issue temporary credentials for a role to the bearer of a web token of a trusted issuer.

The request is not signed. `kmsd.wire.web_identity` verifies the token and makes its bearer the caller.
"""

from __future__ import annotations

from kmsd.errors import (
    ExpiredWebIdentityTokenException,
    IDPCommunicationErrorException,
    InvalidIdentityTokenException,
    MalformedPolicyDocumentException,
    UnsupportedOperationException,
)
from kmsd.operations.declaration import STS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse
from kmsd.operations.sts import shapes as sts_shapes
from kmsd.operations.sts.assume_role import ASSUMED, issue
from kmsd.operations.sts.session_attributes import attributes_of


class Request(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRoleWithWebIdentity."""

    role_arn: sts_shapes.RoleArn
    role_session_name: sts_shapes.RoleSessionName
    web_identity_token: sts_shapes.WebIdentityToken
    provider_id: sts_shapes.ProviderId | None = None
    policy_arns: list[sts_shapes.PolicyDescriptor] | None = None
    policy: sts_shapes.SessionPolicy | None = None
    duration_seconds: sts_shapes.RoleDuration | None = None
    minimum_session_token_size: sts_shapes.SessionTokenSize | None = None


class Response(shapes.Shape, frozen=True):
    """STS API Reference: AssumeRoleWithWebIdentity."""

    credentials: sts_shapes.Credentials
    subject_from_web_identity_token: str
    assumed_role_user: sts_shapes.AssumedRoleUser
    provider: str
    audience: str
    source_identity: str | None = None


async def handle(request: Request, call: Call) -> Response:
    """Issue a session with the role's permissions, limited by the session policy."""
    refuse(request, "policy_arns", "provider_id", "minimum_session_token_size")
    attributes = attributes_of(request, call.caller)
    made, user = await issue(request, call, attributes)
    web_identity = call.caller.web_identity
    if web_identity is None:
        raise LookupError("the caller presented no web token")
    return Response(
        credentials=made,
        subject_from_web_identity_token=web_identity.subject,
        assumed_role_user=user,
        provider=web_identity.issuer,
        audience=web_identity.audience,
        source_identity=attributes.source_identity or None,
    )


OPERATION: Operation[Request, Response] = Operation(
    STS,
    "AssumeRoleWithWebIdentity",
    Request,
    Response,
    handle,
    access=ASSUMED,
    raises=(
        ExpiredWebIdentityTokenException,
        IDPCommunicationErrorException,
        InvalidIdentityTokenException,
        MalformedPolicyDocumentException,
        UnsupportedOperationException,
    ),
    by_web_identity=True,
)
