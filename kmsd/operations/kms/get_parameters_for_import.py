"""GetParametersForImport: return a public key to wrap key material for, and its import token."""

from __future__ import annotations

from kmsd.custody import import_parameters
from kmsd.domain.key_import import WRAPPING_KEY_BITS, can_wrap
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
    """Issue a wrapping key and its import token. The key does not change. Durable before the response."""
    dependencies = call.dependencies
    algorithm = await import_parameters.check_algorithm(
        request.wrapping_algorithm, dependencies.tokens, dependencies.refused_wrapping, call.key.spec
    )
    bits = WRAPPING_KEY_BITS.get(request.wrapping_key_spec)
    if bits is None:
        raise UnsupportedOperationException(f"The wrapping key spec {request.wrapping_key_spec} is not supported.")
    if not can_wrap(algorithm, bits, call.key.spec):
        raise UnsupportedOperationException(
            f"The wrapping algorithm {algorithm} with the wrapping key spec {request.wrapping_key_spec} is not "
            f"supported for KeySpec {call.key.spec}."
        )
    issued = await import_parameters.issue(
        dependencies.store,
        dependencies.tokens,
        await call.service_sealer(),
        call.key,
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
