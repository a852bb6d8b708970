"""GetParametersForImport: a public key to wrap key material for, and the import token that goes with it."""

from __future__ import annotations

from kmsd.custody import import_parameters
from kmsd.domain.key_import import WRAPPING_KEY_BITS
from kmsd.domain.key_state import Usable
from kmsd.errors import LimitExceededException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: GetParametersForImport, Request Parameters; hybrid wrapping and longer keys are newer."""

    key_id: shapes.KeyId
    wrapping_algorithm: shapes.WrappingAlgorithm
    wrapping_key_spec: shapes.WrappingKeySpec


class Response(shapes.Shape, frozen=True):
    """Reference: GetParametersForImport, Response Elements."""

    key_id: shapes.KeyId
    import_token: shapes.ImportToken
    public_key: shapes.PublicKey
    parameters_valid_to: shapes.Timestamp


async def handle(request: Request, call: Call) -> Response:
    """Nothing of the key changes. That a wrapping key is given out is durable before the answer."""
    dependencies = call.dependencies
    asked, refused = request.wrapping_algorithm, dependencies.refused_wrapping
    algorithm = await import_parameters.check_algorithm(asked, dependencies.tokens, refused)
    bits = WRAPPING_KEY_BITS.get(request.wrapping_key_spec)
    if bits is None:
        raise UnsupportedOperationException(f"The wrapping key spec {request.wrapping_key_spec} is not supported.")
    issued = await import_parameters.issue(
        dependencies.store,
        dependencies.tokens,
        await call.service_sealer(),
        key_id=call.key.key_id,
        algorithm=algorithm,
        bits=bits,
        now=call.now,
    )
    return Response(
        key_id=call.key.arn,
        import_token=issued.import_token,
        public_key=issued.public_key,
        parameters_valid_to=issued.expires_at.timestamp(),
    )


OPERATION = Operation(
    KMS,
    "GetParametersForImport",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.IMPORT),),
    raises=(LimitExceededException, UnsupportedOperationException),
)
