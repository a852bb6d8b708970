"""GetSessionToken: issue temporary credentials for the calling user."""

from __future__ import annotations

from kmsd.custody import session_tokens
from kmsd.custody.session_sealer import SessionSealer
from kmsd.errors import AccessDeniedException, UnsupportedOperationException
from kmsd.operations.access import Unrestricted
from kmsd.operations.declaration import STS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse
from kmsd.operations.sts import shapes as sts_shapes
from kmsd.operations.sts.credentials import credentials


class Request(shapes.Shape, frozen=True):
    """STS API Reference: GetSessionToken."""

    duration_seconds: sts_shapes.SessionDuration = 43200
    serial_number: sts_shapes.SerialNumber | None = None
    token_code: sts_shapes.TokenCode | None = None
    minimum_session_token_size: sts_shapes.SessionTokenSize | None = None


class Response(shapes.Shape, frozen=True):
    """STS API Reference: GetSessionToken."""

    credentials: sts_shapes.Credentials


async def handle(request: Request, call: Call) -> Response:
    """Issue a session with the user's permissions. It ends when it expires or the calling access key is disabled."""
    refuse(request, "serial_number", "token_code", "minimum_session_token_size")
    long_term = await call.reader.access_key(call.caller.access_key_id)
    if long_term is None:
        raise AccessDeniedException("Cannot call GetSessionToken with session credentials")
    sealer, seconds = await SessionSealer.made(call.dependencies.store, call.token), request.duration_seconds
    made = await session_tokens.for_user(sealer, long_term.user, long_term.access_key_id, now=call.now, seconds=seconds)
    return Response(credentials=credentials(made))


OPERATION = Operation(
    STS,
    "GetSessionToken",
    Request,
    Response,
    handle,
    access=(Unrestricted("it gives no permission that the user's access key does not have"),),
    raises=(UnsupportedOperationException,),
)
