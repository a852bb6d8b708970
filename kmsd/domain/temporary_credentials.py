"""Temporary credentials: the content of a session token, which is sealed and can be neither read nor forged."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class SessionTokenPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a session token. It is kept small, because the token is sent with every request."""

    secret: str
    """The secret access key of the temporary credentials."""
    account: str
    name: str
    """Name of the role or user."""
    entity_id: str
    """`AROA…` or `AIDA…`: a role or user recreated under the same name has another id."""
    issued_at: int
    """Seconds since 1970."""
    expires_at: int
    session_name: str = ""
    """Session name of an assumed role; empty for the session of a user."""
    access_key_id: str = ""
    """The user's long-term access key that requested it. Disabling that key ends the session."""
    policies: tuple[str, ...] | None = None
    """Session policies; None: no limit."""
    provider: str = ""
    """ARN of the issuer of the web token that the session was issued for."""
    tags: Mapping[str, str] = {}
    """Session tags."""
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str = ""
