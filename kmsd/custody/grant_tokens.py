"""Grant tokens: proof that a grant was made. Opaque, unforgeable, bound to their grant.

Here every grant holds from the moment CreateGrant has answered, so a token opens nothing that the grant
does not open by itself; but one that is not ours, or whose grant is gone, is refused as AWS refuses it.
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
    """A new token for a grant; each call returns another, and all are good."""
    return base64.urlsafe_b64encode(await sealer.encrypt(_PURPOSE, "", bytes.fromhex(grant.grant_id))).decode()


async def grant_of(token: str, reader: Reader, sealer: ServiceSealer) -> Grant:
    """The grant that a token proves. Raises InvalidGrantTokenException."""
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
    """Refuse a request that carries a token that is not good."""
    for token in tokens:
        await grant_of(token, reader, sealer)
