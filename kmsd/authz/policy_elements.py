"""Syntax of single values in policy documents: principals, actions, resources, condition keys."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from kmsd.authz import policy_variables
from kmsd.authz.policy_variables import ARN_PARTS, ArnTemplate
from kmsd.authz.wildcard import Pattern
from kmsd.domain.policy import Principals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PARTITION = r"aws(?:-[a-z]+)*"
_NAME = r"[A-Za-z0-9_+=,.@-]+"
# Printable ASCII without the wildcards: "You cannot use a wildcard to match part of a principal name or ARN."
_PATH = r"(?:[!-)+->@-~]*/)?"
_ACCOUNT = re.compile(rf"[0-9]{{12}}|arn:{_PARTITION}:iam::[0-9]{{12}}:root")
_ENTITY = re.compile(
    rf"arn:{_PARTITION}:(?:iam::[0-9]{{12}}:(?:user|role)/{_PATH}{_NAME}|sts::[0-9]{{12}}:assumed-role/{_NAME}/{_NAME})"
)
_FEDERATED_USER = re.compile(rf"arn:{_PARTITION}:sts::[0-9]{{12}}:federated-user/{_NAME}")
_SERVICE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:amazonaws\.com(?:\.cn)?|aws\.internal)")
_UNMATCHED = re.compile(r"[!-)+->@-~]+")
_FORMS = {
    "AWS": (re.compile(r"\*"), _ACCOUNT, _ENTITY, _FEDERATED_USER),
    "Service": (_SERVICE,),
    "Federated": (_UNMATCHED,),
    "CanonicalUser": (_UNMATCHED,),
}

_ACTION = re.compile(r"\*|[A-Za-z0-9-]{1,64}:[A-Za-z0-9*?_-]{1,128}")
_RESOURCE = re.compile(r"[ -~]{1,2048}")
# The issuer of a web token is named with its path: `idp.example.com/tenant:sub`.
_KEY = re.compile(r"[A-Za-z0-9._/-]+:[^\x00-\x1f]+")

INVALID_PRINCIPALS = "Policy contains a statement with one or more invalid principals."
NO_VENDOR = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."


def check_principal(kind: str, value: str) -> None:
    """Check that `value` is a principal of `kind` (`AWS`, `Service`, …). Raises `ValueError`."""
    if not any(form.fullmatch(value) for form in _FORMS[kind]):
        raise ValueError(INVALID_PRINCIPALS)


def principals(named: Mapping[str, Sequence[str]]) -> Principals:
    """Return the principals of a map such as `{"AWS": [...], "Service": [...]}` of checked values."""
    aws = named.get("AWS", ())
    return Principals(
        everyone="*" in aws,
        accounts=tuple(value for value in aws if _ACCOUNT.fullmatch(value)),
        entities=tuple(value for value in aws if _ENTITY.fullmatch(value)),
        services=tuple(named.get("Service", ())),
        federated=tuple(named.get("Federated", ())),
        unmatched=(
            *(value for value in aws if _FEDERATED_USER.fullmatch(value)),
            *named.get("CanonicalUser", ()),
        ),
    )


@lru_cache(maxsize=1024)  # as `resource`
def action(text: str) -> Pattern:
    """Return the pattern of a checked action. Compare it with an action in lower case."""
    return Pattern.of(text.lower())


def check_action(text: str) -> None:
    """Check for `*`, or a service prefix without wildcard, a colon and a name. Raises `ValueError`."""
    if not _ACTION.fullmatch(text):
        raise ValueError(NO_VENDOR)


@lru_cache(maxsize=1024)  # policies repeat resources; an entry is never stale, and the least recently used is evicted
def resource(text: str, *, variables: bool) -> ArnTemplate:
    """Parse `*` or an ARN with wildcards. Raises `ValueError`.

    An ARN of fewer than six parts must end in `*`: "if a * wildcard is the last character of a resource ARN segment,
    it can expand to match beyond the colon boundaries". Elsewhere a `*` stays within its part: otherwise a pattern for
    an alias of one account could match that of another.
    """
    malformed = f'Resource {text[:64]} must be in ARN format or "*".'
    if not _RESOURCE.fullmatch(text) or (text != "*" and not text.startswith("arn:")):
        raise ValueError(malformed)
    parts = policy_variables.parse(text, variables=variables)
    try:
        pattern = ArnTemplate(parts)
    except ValueError:
        raise ValueError(malformed) from None
    # "You can't use a variable to replace parts of the ARN before the fifth colon."
    if pattern.varies_early or (pattern.varies and pattern.length < ARN_PARTS):
        msg = "A policy variable can stand in the last part of a resource's ARN only."
        raise ValueError(msg)
    return pattern


def check_key(key: str) -> None:
    """Check that a condition key has a service prefix. Raises `ValueError`."""
    if not _KEY.fullmatch(key):
        raise ValueError(NO_VENDOR)
