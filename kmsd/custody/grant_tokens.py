"""Grant tokens: opaque, unforgeable proofs that a grant was created.

In kmsd a grant is effective as soon as CreateGrant has returned, so a grant token adds no permission. A token that is
not from this daemon, or whose grant was retired or revoked, is refused as AWS refuses it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain import canonical_base64
from kmsd.domain.grant import Grant
from kmsd.errors import InvalidGrantTokenException
from kmsd.ports import NotAuthentic, Reader

_PURPOSE = "grant-token"


async def issue(grant: Grant, sealer: ServiceSealer) -> str:
    """Return a new token for a grant. Each call returns a different one; all are valid."""
    return base64.urlsafe_b64encode(await sealer.encrypt(_PURPOSE, "", bytes.fromhex(grant.grant_id))).decode()


async def grant_of(token: str, reader: Reader, sealer: ServiceSealer) -> Grant:
    """Return the grant of a token. Raises InvalidGrantTokenException."""
    try:
        sealed = canonical_base64.decode(token, altchars=b"-_")
        grant_id = (await sealer.decrypt(_PURPOSE, "", sealed)).hex()
    except (ValueError, NotAuthentic) as exc:
        raise InvalidGrantTokenException(detail="not a grant token of this daemon") from exc
    grant = await reader.grant(grant_id)
    if grant is None:
        raise InvalidGrantTokenException(detail="the grant was retired or revoked")
    return grant


async def check(tokens: Sequence[str], reader: Reader, sealer: ServiceSealer) -> None:
    """Check all grant tokens of a request. Raises InvalidGrantTokenException."""
    for token in tokens:
        await grant_of(token, reader, sealer)
