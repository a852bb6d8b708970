"""GetPublicKey: return the public half of a key pair."""

from __future__ import annotations

from kmsd.custody import key_material, wrapped_material
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.key_metadata import algorithm_members


class Request(shapes.Shape, frozen=True):
    """Reference: GetPublicKey, Request Parameters."""

    key_id: shapes.KeyId
    grant_tokens: shapes.GrantTokens = []


class Response(shapes.Shape, frozen=True):
    """Reference: GetPublicKey, Response Elements."""

    key_id: shapes.KeyId
    public_key: shapes.PublicKey
    customer_master_key_spec: shapes.CustomerMasterKeySpec
    key_spec: shapes.KeySpec
    key_usage: shapes.KeyUsage
    encryption_algorithms: list[str] = []
    signing_algorithms: list[str] = []
    key_agreement_algorithms: list[str] = []
    encapsulation_algorithms: list[str] = []


async def handle(request: Request, call: Call) -> Response:
    """Return the public key, which was read from the token when the pair was created."""
    del request
    key = call.key
    if not key.spec.is_asymmetric:
        raise UnsupportedOperationException(f"{key.arn} key spec is {key.spec} which is not valid for GetPublicKey.")
    return Response(
        key_id=key.arn,
        public_key=await wrapped_material.public_key(call.tokens, key_material.current(key, call.now)),
        customer_master_key_spec=key.spec,
        key_spec=key.spec,
        key_usage=key.usage,
        **algorithm_members(key),
    )


OPERATION = Operation(
    KMS,
    "GetPublicKey",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ENABLED, aliases=True),),
    raises=(KeyUnavailableException, UnsupportedOperationException),
    grantable=frozenset(spec for spec in KeySpec if spec.is_asymmetric),
)
