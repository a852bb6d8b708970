"""Temporary credentials: what a session token holds. It is sealed, so nothing of it can be read or forged."""

from __future__ import annotations

import msgspec


class SessionTokenPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a session token. Names are short: the token travels with every request."""

    secret: str
    """The secret access key that goes with it."""
    account: str
    name: str
    """Of the role or user."""
    entity_id: str
    """`AROA…` or `AIDA…`: a role or user made anew under the same name is another one."""
    issued_at: int
    """Seconds since 1970."""
    expires_at: int
    session_name: str = ""
    """Of an assumed role; empty: the session of a user."""
    access_key_id: str = ""
    """The long-term key by which a user got it; the session ends when that key is disabled."""
    policies: tuple[str, ...] | None = None
    """Session policies; None: no bound."""
