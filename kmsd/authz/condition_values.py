"""Functions that find the values of condition keys in an authorization request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kmsd.authz.circumstances import Values, named
from kmsd.domain.key import DEFAULT_ROTATION_DAYS
from kmsd.domain.key_spec import SYMMETRIC_DEFAULT
from kmsd.domain.principal import Caller, PrincipalType

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest

Getter = Callable[["AuthorizationRequest", str], Values | None]
"""Return the value for a request. The second argument is the part after the prefix, as in `aws:ResourceTag/…`."""

# --- Values that follow from the caller -----------------------------------------------------------------------------


def of_caller(value: Callable[[Caller], Values | None]) -> Getter:
    """Return a getter that takes the value from the caller."""
    return lambda request, _: value(request.caller)


def of_person(value: Callable[[Caller], Values | None]) -> Getter:
    """Return a getter for users, role sessions and root; a service of the daemon has no value."""
    return lambda request, _: None if is_service(request.caller) else value(request.caller)


def is_service(caller: Caller) -> bool:
    """True if the caller is a service of the daemon."""
    return caller.principal_type is PrincipalType.SERVICE


def truth(value: bool | None) -> str | None:  # noqa: FBT001  # the value itself
    """Return a boolean as policies write it."""
    return None if value is None else "true" if value else "false"


def service_names(caller: Caller) -> tuple[str, ...] | None:
    """Return the regional and the general name of a service: `logs.us-east-1.amazonaws.com`, `logs.amazonaws.com`."""
    if not is_service(caller):
        return None
    return caller.arn, f"{caller.arn.partition('.')[0]}.amazonaws.com"


# --- Values that follow from the request ----------------------------------------------------------------------------


def member(*names: str) -> Getter:
    """Return a getter for the first of these members of the request that is not None (a default counts)."""

    def value(request: AuthorizationRequest, _: str) -> Values | None:
        for name in names:
            found = getattr(request.circumstances.request, name, None)
            if found is not None:
                return _text(found)
        return None

    return value


def _text(value: Any) -> Values | None:
    match value:
        case bool():
            return truth(value)
        case list() | tuple():
            return tuple(str(item) for item in value)
        case _:
            return str(value)


def of_key(of_key: str | Callable[[Any], str], of_request: Getter, default: str) -> Getter:
    """Return a getter for an attribute of the key that the request names, or, in CreateKey, of the requested key."""

    def value(request: AuthorizationRequest, name: str) -> Values | None:
        key = request.circumstances.key
        if key is not None:
            return of_key if isinstance(of_key, str) else of_key(key)
        return (of_request(request, name) or default) if request.circumstances.creates else None

    return value


def encryption_algorithm(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the encryption algorithm of the request; of ReEncrypt, that of the side which the action authorises."""
    side = {"kms:ReEncryptFrom": "source_", "kms:ReEncryptTo": "destination_"}.get(request.action, "")
    return getattr(request.circumstances.request, f"{side}encryption_algorithm", None) or SYMMETRIC_DEFAULT


def rotation_period(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the period that EnableKeyRotation sets, in days."""
    # EnableKeyRotation on a key that rotates, without a period, keeps the key's period.
    days = getattr(request.circumstances.request, "rotation_period_in_days", None)
    key = request.circumstances.key
    if days is None and key is not None:
        days = key.rotation_period_days
    return str(days or DEFAULT_ROTATION_DAYS)


def valid_to(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the member ValidTo of ImportKeyMaterial as a date."""
    value = getattr(request.circumstances.request, "valid_to", None)
    return None if value is None else datetime.fromtimestamp(value, UTC).isoformat()


def constraint_type(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the kind of constraint of the grant that is created or retired."""
    grant = request.circumstances.grant
    if grant is not None:
        equals, subset = grant.encryption_context_equals, grant.encryption_context_subset
    else:
        constraints = getattr(request.circumstances.request, "constraints", None)
        # An empty map in a request means that the constraint is absent.
        equals = getattr(constraints, "encryption_context_equals", None) or None
        subset = getattr(constraints, "encryption_context_subset", None) or None
    if equals is not None:
        return "EncryptionContextEquals"
    return None if subset is None else "EncryptionContextSubset"


def request_tags(request: AuthorizationRequest) -> dict[str, str]:
    """Return the tags in the request."""
    if request.caller.web_identity is not None:
        return dict(request.caller.web_identity.tags)
    tags = getattr(request.circumstances.request, "tags", None) or ()
    if isinstance(tags, dict):  # CloudWatch Logs has a map of tags
        return tags
    if request.action.startswith("sts:"):
        return {tag.key: tag.value for tag in tags}
    return {tag.tag_key: tag.tag_value for tag in tags}


def tag_keys(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the tag keys in the request, from TagKeys or from the tags."""
    keys = getattr(request.circumstances.request, "tag_keys", None)
    return tuple(request_tags(request) if keys is None else keys)


def transitive_tag_keys(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the names of session tags in the request that go on to the next session; None if there are none."""
    web_identity = request.caller.web_identity
    if web_identity is not None:
        return web_identity.transitive_tag_keys or None
    return tuple(getattr(request.circumstances.request, "transitive_tag_keys", None) or ()) or None


def requested_source_identity(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the source identity that the request sets, or that its session has already."""
    web_identity = request.caller.web_identity
    given = getattr(request.circumstances.request, "source_identity", None)
    return (
        (web_identity.source_identity if web_identity is not None else given) or request.caller.source_identity or None
    )


def resource_tag(request: AuthorizationRequest, name: str) -> Values | None:
    """Return a tag of the resource."""
    # "This key is included … in requests that create a resource with an attached tag" (aws:ResourceTag).
    circumstances = request.circumstances
    return named(request_tags(request) if circumstances.creates else circumstances.tags, name)


def current_time(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the time of the request as a date."""
    now = request.circumstances.now
    return None if now is None else now.isoformat().replace("+00:00", "Z")


def epoch_time(request: AuthorizationRequest, _: str) -> Values | None:
    """Return the time of the request in whole seconds since 1970."""
    now = request.circumstances.now
    return None if now is None else str(int(now.timestamp()))


def circumstance(name: str) -> Getter:
    """Return a getter that takes a field of the circumstances."""
    return lambda request, _: getattr(request.circumstances, name) or None
