"""Credentials: temporary credentials in the responses of STS."""

from __future__ import annotations

from kmsd.custody.session_tokens import TemporaryCredentials
from kmsd.operations.sts import shapes


def credentials(made: TemporaryCredentials) -> shapes.Credentials:
    """Convert temporary credentials to the shape of the response."""
    return shapes.Credentials(
        access_key_id=made.access_key_id,
        secret_access_key=made.secret,
        session_token=made.session_token,
        expiration=made.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
