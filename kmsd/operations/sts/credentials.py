"""Credentials: temporary ones, as STS's answers carry them."""

from __future__ import annotations

from kmsd.custody.sessions import TemporaryCredentials
from kmsd.domain import sts_shapes


def credentials(made: TemporaryCredentials) -> sts_shapes.Credentials:
    """One answer's credentials."""
    return sts_shapes.Credentials(
        access_key_id=made.access_key_id,
        secret_access_key=made.secret,
        session_token=made.session_token,
        expiration=made.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
