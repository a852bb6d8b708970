"""The circumstances of a request: what condition keys that do not follow from the caller take their values from."""

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
"""The values of one condition key. A tuple: the key can have several values at once."""


class AmbiguousValues(tuple[str, ...]):
    """Values of names that differ in case alone: `{"AppName": "a", "appname": "b"}`.

    Condition keys are compared without regard to case, so the policy's author cannot have meant one of them. A
    condition on such a key holds for Allow only if it holds for each value, for Deny if it holds for any.
    """

    __slots__ = ()


def named(pairs: Mapping[str, str], name: str) -> Values | None:
    """Return the value whose name is `name` (folded) but for case; `AmbiguousValues` if there are several."""
    found = [value for written, value in pairs.items() if fold(written) == name]
    if len(found) > 1:
        return AmbiguousValues(found)
    return found[0] if found else None


class Circumstances(msgspec.Struct, frozen=True):
    """Everything about one request on one resource that is known beside caller, action and encryption context."""

    now: datetime | None = None
    region: str = ""
    address: str = ""
    """IP address of the client; empty for a Unix socket, and for a service of the daemon."""
    user_agent: str = ""
    is_secure: bool | None = None
    """True for TLS, and for a service of the daemon, whose requests cross no network."""
    source_arn: str = ""
    """ARN of the resource for which a service of the daemon acts."""
    request: msgspec.Struct | None = None
    """The decoded request; None where a service of the daemon acts."""
    key: Key | None = None
    alias: str = ""
    """The alias by which the request names the key."""
    aliases: tuple[str, ...] = ()
    """All aliases of the key."""
    tags: Mapping[str, str] = {}
    """Tags of the key, log group or role."""
    grant: Grant | None = None
    """The grant that RetireGrant ends."""
    creates: bool = False
    """True if the request makes the resource: its attributes and tags are those that the request asks for."""
    reencrypts_on_same_key: bool | None = None
    """None: the operation is not ReEncrypt."""


UNKNOWN = Circumstances()
