"""The circumstances of a request: the source of the condition keys that do not follow from the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz.wildcard import fold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kmsd.domain.grant import Grant
    from kmsd.domain.key import Key

Values = str | tuple[str, ...]
"""The values of one condition key. A tuple means that the key can have several values at once."""


class AmbiguousValues(tuple[str, ...]):
    """Values of names that differ only in case: `{"AppName": "a", "appname": "b"}`.

    Condition keys are compared without regard to case, so a policy cannot select one of them. In an Allow, a condition
    on such a key holds only if it holds for each value. In a Deny, it holds if it holds for any value.
    """

    __slots__ = ()


def named(pairs: Mapping[str, str], name: str) -> Values | None:
    """Return the value whose name folds to `name`; `AmbiguousValues` if there are several; None if there is none."""
    found = [value for written, value in pairs.items() if fold(written) == name]
    if len(found) > 1:
        return AmbiguousValues(found)
    return found[0] if found else None


class Circumstances(msgspec.Struct, frozen=True):
    """Attributes of one request and its resource, apart from caller, action and encryption context."""

    now: datetime | None = None
    region: str = ""
    address: str = ""
    """IP address of the client. Empty for a Unix socket and for a service of the daemon."""
    user_agent: str = ""
    is_secure: bool | None = None
    """True for TLS and for a service of the daemon, whose requests cross no network."""
    source_arn: str = ""
    """ARN of the resource on whose behalf a service of the daemon acts."""
    request: msgspec.Struct | None = None
    """The decoded request; None if a service of the daemon acts."""
    key: Key | None = None
    alias: str = ""
    """The alias in the request that names the key."""
    aliases: tuple[str, ...] = ()
    """All aliases of the key."""
    tags: Mapping[str, str] = {}
    """Tags of the key, log group or role."""
    grant: Grant | None = None
    """The grant that RetireGrant ends."""
    creates: bool = False
    """True if the request creates the resource. Its attributes and tags are then those in the request."""
    reencrypts_on_same_key: bool | None = None
    """None if the operation is not ReEncrypt."""


UNKNOWN = Circumstances()
