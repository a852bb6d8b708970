"""Files of a SoftHSM2 token, and a change of its PIN."""

from __future__ import annotations

from pathlib import Path

from kmsd.adapters.pkcs11.softhsm_token_copy import NAME
from tests.support.tokens import TokenPlace


def token_object(place: TokenPlace) -> Path:
    """The token's own file."""
    assert place.objects is not None
    (found,) = place.objects.glob(f"*/{NAME}")
    return found


async def change_pin(place: TokenPlace, new: bytes) -> None:
    """As a program does that is not kmsd: C_SetPIN, by the user."""
    async with place.open(token_dir_sync=None) as token:
        token._link.require().owner.session.binding.set_pin(place.pin.decode(), new.decode())
