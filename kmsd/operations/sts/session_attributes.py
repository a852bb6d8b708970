"""Session tags and source identity: what a new session of a role keeps, and what it inherits from the caller's.

"Passing session tags in AWS STS" and "Monitor and control actions taken with assumed roles", IAM User Guide.
"""

from __future__ import annotations

import re
from typing import Any

from kmsd.authz.wildcard import fold
from kmsd.custody.session_tokens import SessionAttributes, overlaid
from kmsd.domain.principal import Caller
from kmsd.errors import TagException, ValidationException
from kmsd.operations.kms import tag_rules
from kmsd.operations.kms.shapes import Tag

MAX_TAGS = 50
MAX_KEY = 128
MAX_VALUE = 256
_SOURCE_IDENTITY = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)


def attributes_of(request: Any, caller: Caller) -> SessionAttributes:
    """Return the attributes of the session that `request` asks for. Raises ValidationException."""
    web_identity = caller.web_identity
    if web_identity is not None:
        pairs = list(web_identity.tags.items())
        wanted, given = web_identity.transitive_tag_keys, web_identity.source_identity
    else:
        pairs = [(tag.key, tag.value) for tag in request.tags or ()]
        wanted, given = tuple(request.transitive_tag_keys or ()), request.source_identity or ""
    if tag_rules.has_twins([name for name, _ in pairs]):
        raise ValidationException("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    if any(len(name) > MAX_KEY or len(value) > MAX_VALUE for name, value in pairs):
        raise ValidationException(f"A tag has at most {MAX_KEY} characters in its key and {MAX_VALUE} in its value.")
    try:
        tags = tag_rules.as_mapping(Tag(name, value) for name, value in pairs)
    except TagException as exc:
        raise ValidationException(exc.message) from exc
    inherited = {name: value for name, value in caller.tags.items() if name in caller.transitive_tag_keys}
    if {fold(name) for name in inherited} & {fold(name) for name in tags}:
        raise ValidationException(
            "One of the specified transitive tag keys can't be set because it conflicts with a "
            "transitive tag key from the calling session."
        )
    tags = overlaid(inherited, tags)
    if len(tags) > MAX_TAGS:
        raise ValidationException(f"A session can have {MAX_TAGS} tags.")
    names = {fold(name): name for name in tags}
    if any(fold(name) not in names for name in wanted):
        raise ValidationException("The specified transitive tag key must be included in the requested tags.")
    transitive = dict.fromkeys((*inherited, *(names[fold(name)] for name in wanted)))
    return SessionAttributes(
        provider="" if web_identity is None else caller.identity_provider,
        tags=tags,
        transitive_tag_keys=tuple(transitive),
        source_identity=_source_identity(given, caller),
    )


def _source_identity(given: str, caller: Caller) -> str:
    if given and not _SOURCE_IDENTITY.fullmatch(given):
        raise ValidationException("The source identity has 2 to 64 letters, digits or _+=,.@-.")
    if caller.source_identity and given not in ("", caller.source_identity):
        raise ValidationException("The source identity of a session cannot be changed.")
    return caller.source_identity or given
