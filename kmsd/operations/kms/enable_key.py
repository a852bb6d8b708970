"""EnableKey: allow cryptographic use of a key again."""

from __future__ import annotations

from kmsd.domain.key_state import Transition, Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: EnableKey, Request Parameters."""

    key_id: shapes.KeyId


async def handle(_: Request, call: WriteCall) -> None:
    """Enable the key. The new state is effective in every process when the response is sent."""
    await call.transaction.update_key(call.key, call.key.after(Transition.ENABLE))


OPERATION = Operation(
    KMS,
    "EnableKey",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.WITH_MATERIAL),),
    writes=True,
)
