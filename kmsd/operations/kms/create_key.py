"""CreateKey: create a key, generated in the token or pending import."""

from __future__ import annotations

from uuid import uuid4

import msgspec
from msgspec.structs import replace

from kmsd.authz.lockout import default_key_policy
from kmsd.custody import key_material
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Material
from kmsd.errors import (
    LimitExceededException,
    MalformedPolicyDocumentException,
    TagException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.access import OnAccount, OnNewKey
from kmsd.operations.declaration import KMS, Call, Operation, Target, WriteCall
from kmsd.operations.kms import shapes
from kmsd.operations.kms import tag_rules as tags
from kmsd.operations.kms.key_metadata import key_metadata
from kmsd.operations.kms.new_key_policy import check_new_policy
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: CreateKey, Request Parameters; specs, tags and stores are newer."""

    policy: shapes.Policy | None = None
    description: shapes.Description = ""
    key_usage: shapes.KeyUsage | None = None
    customer_master_key_spec: shapes.CustomerMasterKeySpec | None = None
    key_spec: shapes.KeySpec | None = None
    origin: shapes.OriginType = "AWS_KMS"
    custom_key_store_id: shapes.CustomKeyStoreId | None = None
    bypass_policy_lockout_safety_check: bool = False
    tags: list[shapes.Tag] = []
    multi_region: bool | None = None
    xks_key_id: shapes.XksKeyId | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: CreateKey, Response Elements."""

    key_metadata: shapes.KeyMetadata


class _Prepared(msgspec.Struct, frozen=True):
    key_id: str
    spec: KeySpec
    usage: KeyUsage
    algorithms: tuple[str, ...]
    material: Material | None = None


async def prepare(request: Request, call: WriteCall) -> _Prepared:
    """Check the request, then make the key material in the token."""
    key_id = str(uuid4())
    spec, usage = await _check(request, call, key_id)
    if request.origin == Origin.EXTERNAL:
        return _Prepared(key_id, spec, usage, await key_material.importable(call.tokens, spec, usage))
    placement = await key_material.place(call.tokens, spec, usage)
    prepared = _Prepared(key_id, spec, usage, placement.algorithms)
    store, now, created = call.dependencies.store, call.now, call.created
    made = await key_material.generate(store, call.tokens, prepared, placement.token, now=now, created=created)
    return replace(prepared, material=made)


async def handle(request: Request, call: WriteCall) -> Response:
    """Insert the key. The new material becomes its own in the same transaction."""
    account, arns, made = call.caller.account, call.dependencies.arns, call.prepared
    present = await _check_count(call)
    key = Key(
        key_id=made.key_id,
        account=account,
        arn=arns.key(account, made.key_id),
        description=request.description,
        origin=Origin(request.origin),
        state=KeyState.PENDING_IMPORT if made.material is None else KeyState.ENABLED,
        policy=_policy(request, call),
        created_at=call.now,
        current_material=made.material,
        spec=made.spec,
        usage=made.usage,
        algorithms=made.algorithms,
    )
    if not present:
        await call.transaction.insert_account(account, call.now)
    await call.transaction.insert_key(key)
    await call.transaction.put_tags(key.key_id, tags.as_mapping(request.tags))
    if made.material is not None:
        await key_material.add(call.transaction, key.key_id, made.material)
    call.response_keys = (key.arn,)
    return Response(key_metadata=key_metadata(key, call.now))


async def _check(request: Request, call: Call, key_id: str) -> tuple[KeySpec, KeyUsage]:
    """Check everything that can be refused without the token. Return the kind of key."""
    kind = _kind(request)
    tags.check_count(tags.as_mapping(request.tags), call.dependencies.quotas.tags_per_key)
    # "If you provide a key policy, it must … allow the calling principal to make a subsequent PutKeyPolicy request":
    # the default policy needs no check.
    if request.policy is not None:
        target = Target(arn=call.dependencies.arns.key(call.caller.account, key_id))
        await check_new_policy(OPERATION, request.policy, request, call, target)
    await _check_count(call)
    return kind


async def _check_count(call: Call) -> int:
    """Return the number of keys of the account."""
    most = call.dependencies.quotas.keys_per_account
    present = await call.reader.count_keys(call.caller.account)
    if present >= most:
        raise LimitExceededException(f"The account has {most} keys, which is the limit.")
    return present


def _policy(request: Request, call: Call) -> str:
    return request.policy or default_key_policy(call.caller.account, call.dependencies.arns.partition)


def _kind(request: Request) -> tuple[KeySpec, KeyUsage]:
    """Return spec and usage of the requested key. What the daemon does not offer is refused by name."""
    refuse(request, "custom_key_store_id", "xks_key_id")
    if request.key_spec is not None and request.customer_master_key_spec is not None:
        raise ValidationException(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is "
            "deprecated."
        )
    spec = KeySpec(request.key_spec or request.customer_master_key_spec or KeySpec.SYMMETRIC_DEFAULT)
    usage = _usage(request, spec)
    if request.origin not in (Origin.AWS_KMS, Origin.EXTERNAL):
        raise UnsupportedOperationException(f"Origin {request.origin} is not supported.")
    if request.multi_region:
        raise UnsupportedOperationException("MultiRegion keys are not supported.")
    return spec, usage


def _usage(request: Request, spec: KeySpec) -> KeyUsage:
    """Return the requested usage. It is required for every kind of key but symmetric encryption keys (CreateKey)."""
    if request.key_usage is None and spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise ValidationException(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
        )
    usage = KeyUsage(request.key_usage or KeyUsage.ENCRYPT_DECRYPT)
    if usage not in ALGORITHMS[spec]:
        raise ValidationException(f"KeyUsage {usage} is not compatible with KeySpec {spec}")
    return usage


OPERATION = Operation(
    KMS,
    "CreateKey",
    Request,
    Response,
    handle,
    # CreateKey: "To use the Tags parameter, kms:TagResource (IAM policy)".
    access=(OnAccount(), OnNewKey("TagResource", when="tags")),
    raises=(
        LimitExceededException,
        MalformedPolicyDocumentException,
        TagException,
        UnsupportedOperationException,
    ),
    writes=True,
    creates=True,
    prepare=prepare,
)
