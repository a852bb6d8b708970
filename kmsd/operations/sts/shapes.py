"""Shapes of STS, from botocore's model of API version 2011-06-15."""

from __future__ import annotations

from typing import Annotated

from kmsd.operations.kms.shapes import Constraint, Shape

_TEXT = r"[\u0009\u000A\u000D\u0020-\u007E\u0085\u00A0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]+"

RoleArn = Annotated[str, Constraint(min_length=20, max_length=2048, pattern=_TEXT)]
RoleSessionName = Annotated[str, Constraint(min_length=2, max_length=64, pattern=r"[\w+=,.@-]*")]
SessionPolicy = Annotated[str, Constraint(min_length=1, max_length=2048, pattern=r"[\u0009\u000A\u000D\u0020-\u00FF]+")]
RoleDuration = Annotated[int, Constraint(minimum=900, maximum=43200)]
SessionDuration = Annotated[int, Constraint(minimum=900, maximum=129600)]
ExternalId = Annotated[str, Constraint(min_length=2, max_length=1224, pattern=r"[\w+=,.@:\/-]*")]
SerialNumber = Annotated[str, Constraint(min_length=9, max_length=256, pattern=r"[\w+=/:,.@-]*")]
TokenCode = Annotated[str, Constraint(min_length=6, max_length=6, pattern=r"[\d]*", secret=True)]
WebIdentityToken = Annotated[str, Constraint(min_length=4, max_length=20_000, secret=True)]
ProviderId = Annotated[str, Constraint(min_length=4, max_length=2048)]
SourceIdentity = Annotated[str, Constraint(min_length=2, max_length=256, pattern=r"[\w+=,.@-]*")]
_TAG = r"[\w\s_.:/=+\-@]"
TagKey = Annotated[str, Constraint(min_length=1, max_length=128, pattern=_TAG + "+")]
TagValue = Annotated[str, Constraint(min_length=0, max_length=256, pattern=_TAG + "*")]
SessionTokenSize = Annotated[int, Constraint(minimum=0, maximum=4096)]
Secret = Annotated[str, Constraint(secret=True)]


class PolicyDescriptor(Shape, frozen=True, rename=None):
    """A managed policy's ARN. Declared so that it can be refused by name."""

    arn: str | None = None


class SessionTag(Shape, frozen=True):
    """A session tag."""

    key: TagKey
    value: TagValue


SessionTags = Annotated[list[SessionTag], Constraint(max_length=50)]
TransitiveTagKeys = Annotated[list[TagKey], Constraint(max_length=50)]


class ProvidedContext(Shape, frozen=True):
    """A trusted context assertion. Declared so that it can be refused by name."""

    provider_arn: str | None = None
    context_assertion: str | None = None


ProvidedContexts = Annotated[list[ProvidedContext], Constraint(min_length=1, max_length=5)]


class Credentials(Shape, frozen=True):
    """Temporary credentials."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret
    expiration: str
    """ISO 8601."""


class AssumedRoleUser(Shape, frozen=True):
    """The session as a principal."""

    assumed_role_id: str
    arn: str
