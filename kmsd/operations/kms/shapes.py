"""Shapes of the KMS API: type, limits, and if the value is secret.

A shape is `Annotated[type, Constraint(...)]`. `kmsd.wire` checks requests against them, with AWS's error messages. The
audit record shows every member that is not `secret`. Limits follow the reference; where botocore's model differs, they
follow the model.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

import msgspec

from kmsd.domain import key_spec
from kmsd.domain.grant import GRANT_OPERATIONS


class Constraint(msgspec.Struct, frozen=True, dict=True):
    """Constraints on the value of a shape. Lengths are in characters, bytes (blobs) or items (lists)."""

    min_length: int | None = None
    max_length: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    """Regular expression as in AWS's model. The whole value must match."""
    values: tuple[str, ...] | None = None
    """Values of an enumeration, in AWS's order."""
    member: Constraint | None = None
    """Constraint on each item of a list."""
    secret: bool = False
    """True if the value must never appear in audit records, log lines and error messages."""

    @cached_property
    def regex(self) -> re.Pattern[str] | None:
        """`pattern`, compiled."""
        return None if self.pattern is None else re.compile(self.pattern, re.ASCII)


def _pascal(name: str) -> str:
    return "".join(_WORDS.get(part, part.capitalize()) for part in name.split("_"))


_WORDS = {"aws": "AWS"}


class Shape(msgspec.Struct, frozen=True, omit_defaults=True, rename=_pascal):
    """A structure of the KMS API: `key_id` here is `KeyId` on the wire."""


def camel(name: str) -> str:
    """Convert `KeyId`, `key_id` or `keyId` to `keyId`, the name in AWS's messages and CloudTrail's records."""
    pascal = _pascal(name) if "_" in name else name
    return pascal[:1].lower() + pascal[1:]


KEY_SPECS = (
    *("RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"),
    *("SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512", "SM2"),
)
NEW_KEY_SPECS = (
    *("ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ECC_NIST_EDWARDS25519", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"),
)

_KEY_ID = Constraint(min_length=1, max_length=2048)
_GRANT_TOKEN = Constraint(min_length=1, max_length=8192, secret=True)
_MARKER = Constraint(min_length=1, max_length=1024, pattern=r"[\u0020-\u00FF]*")
_PRINCIPAL = Constraint(min_length=1, max_length=256, pattern=r"^[\w+=,.@:/-]+$")
_SERVICE_PRINCIPAL = Constraint(
    min_length=1, max_length=128, pattern=r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$"
)

KeyId = Annotated[str, _KEY_ID]
Arn = Annotated[str, Constraint(min_length=20, max_length=2048)]
AliasName = Annotated[str, Constraint(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9:/_-]+$")]
Description = Annotated[str, Constraint(min_length=0, max_length=8192)]
Plaintext = Annotated[bytes, Constraint(min_length=1, max_length=4096, secret=True)]
CiphertextBlob = Annotated[bytes, Constraint(min_length=1, max_length=6144, secret=True)]
Signature = CiphertextBlob
Mac = CiphertextBlob
"""AWS's model has one shape for them. Audit records show none of them."""
PublicKey = Annotated[bytes, Constraint(min_length=1, max_length=8192)]
ImportToken = Annotated[bytes, Constraint(min_length=1, max_length=6144, secret=True)]
EncryptedKeyMaterial = Annotated[bytes, Constraint(min_length=1, max_length=6144, secret=True)]
EncryptionContext = dict[str, str]
GrantToken = Annotated[str, _GRANT_TOKEN]
GrantTokens = Annotated[list[str], Constraint(min_length=0, max_length=10, member=_GRANT_TOKEN, secret=True)]
GrantId = Annotated[str, Constraint(min_length=1, max_length=128)]
GrantName = Annotated[str, Constraint(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9:/_-]+$")]
GrantOperations = Annotated[list[str], Constraint(member=Constraint(values=GRANT_OPERATIONS))]
Principal = Annotated[str, _PRINCIPAL]
ServicePrincipal = Annotated[str, _SERVICE_PRINCIPAL]
SourceArn = Annotated[
    str, Constraint(min_length=20, max_length=512, pattern=r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$")
]
ResourceOwners = Annotated[
    list[str],
    Constraint(min_length=1, max_length=2, member=Constraint(values=("SELF", "OTHER_ACCOUNTS_VIA_RAM"))),
]
Limit = Annotated[int, Constraint(minimum=1, maximum=1000)]
Marker = Annotated[str, _MARKER]
NumberOfBytes = Annotated[int, Constraint(minimum=1, maximum=1024)]
PendingWindowInDays = Annotated[int, Constraint(minimum=7, maximum=30)]
RotationPeriodInDays = Annotated[int, Constraint(minimum=90, maximum=2560)]
Policy = Annotated[str, Constraint(min_length=1, max_length=131072, pattern=r"[\u0009\u000A\u000D\u0020-\u00FF]+")]
PolicyName = Annotated[str, Constraint(min_length=1, max_length=128, pattern=r"[\w]+")]
TagKey = Annotated[str, Constraint(min_length=1, max_length=128)]
TagValue = Annotated[str, Constraint(min_length=0, max_length=256)]
TagKeys = Annotated[list[str], Constraint(member=Constraint(min_length=1, max_length=128))]
KeyMaterialId = Annotated[str, Constraint(min_length=64, max_length=64, pattern=r"^[a-f0-9]+$")]
CustomKeyStoreId = Annotated[str, Constraint(min_length=1, max_length=64)]
XksKeyId = Annotated[str, Constraint(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9-_.]+$")]
Timestamp = float
"""Seconds since 1970-01-01T00:00:00Z, a JSON number."""
ValidTo = Annotated[float, Constraint(minimum=0, maximum=253_402_300_799)]
"""A `Timestamp` in a request. Its maximum is the end of the year 9999, the last date of Python's datetime."""

IncludeKeyMaterial = Annotated[str, Constraint(values=("ALL_KEY_MATERIAL", "ROTATIONS_ONLY"))]
ImportType = Annotated[str, Constraint(values=("NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"))]
KeyMaterialDescription = Annotated[str, Constraint(min_length=0, max_length=256, pattern=r"^[a-zA-Z0-9:/_\s.-]+$")]
WrappingAlgorithm = Annotated[
    str,
    Constraint(
        values=(
            *("RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"),
            *("RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256", "SM2PKE"),
        )
    ),
]
WrappingKeySpec = Annotated[str, Constraint(values=("RSA_2048", "RSA_3072", "RSA_4096", "SM2"))]
DataKeySpec = Annotated[str, Constraint(values=("AES_256", "AES_128"))]
DataKeyPairSpec = Annotated[
    str,
    Constraint(
        values=(
            *("RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"),
            *("ECC_SECG_P256K1", "SM2", "ECC_NIST_EDWARDS25519", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"),
        )
    ),
]
EncryptionAlgorithm = Annotated[str, Constraint(values=tuple(key_spec.EncryptionAlgorithm))]
SigningAlgorithm = Annotated[str, Constraint(values=tuple(key_spec.SigningAlgorithm))]
MacAlgorithm = Annotated[str, Constraint(values=tuple(key_spec.MacAlgorithm))]
KeyAgreementAlgorithm = Annotated[str, Constraint(values=tuple(key_spec.KeyAgreementAlgorithm))]
EncapsulationAlgorithm = Annotated[str, Constraint(values=tuple(key_spec.EncapsulationAlgorithm))]
MessageType = Annotated[str, Constraint(values=tuple(key_spec.MessageType))]
DryRunModifiers = Annotated[list[str], Constraint(member=Constraint(values=("IGNORE_CIPHERTEXT",)))]
ExpirationModel = Annotated[str, Constraint(values=("KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"))]
KeySpec = Annotated[str, Constraint(values=(*KEY_SPECS, *NEW_KEY_SPECS))]
CustomerMasterKeySpec = Annotated[str, Constraint(values=KEY_SPECS)]
KeyUsage = Annotated[
    str,
    Constraint(
        values=("SIGN_VERIFY", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE")
    ),
]
OriginType = Annotated[str, Constraint(values=("AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"))]


class Tag(Shape, frozen=True):
    """A tag of a key."""

    tag_key: TagKey
    tag_value: TagValue


class RecipientInfo(Shape, frozen=True):
    """A Nitro Enclave's attestation. Declared so that it can be refused by name."""

    key_encryption_algorithm: Annotated[str, Constraint(values=("RSAES_OAEP_SHA_256",))] | None = None
    attestation_document: Annotated[bytes, Constraint(min_length=1, max_length=262144)] | None = None


class KeyMetadata(Shape, frozen=True):
    """Description of a key in DescribeKey and CreateKey."""

    aws_account_id: str
    key_id: KeyId
    arn: Arn
    creation_date: Timestamp
    enabled: bool
    description: Description
    key_usage: KeyUsage
    key_state: str
    origin: OriginType
    key_manager: str
    customer_master_key_spec: CustomerMasterKeySpec
    key_spec: KeySpec
    multi_region: bool
    encryption_algorithms: list[str] = []
    signing_algorithms: list[str] = []
    mac_algorithms: list[str] = []
    key_agreement_algorithms: list[str] = []
    encapsulation_algorithms: list[str] = []
    deletion_date: Timestamp | None = None
    pending_deletion_window_in_days: int | None = None
    valid_to: Timestamp | None = None
    expiration_model: ExpirationModel | None = None
    current_key_material_id: KeyMaterialId | None = None


class KeyListEntry(Shape, frozen=True):
    """An entry of ListKeys."""

    key_id: KeyId
    key_arn: Arn


class AliasListEntry(Shape, frozen=True):
    """An entry of ListAliases."""

    alias_name: AliasName
    alias_arn: Arn
    creation_date: Timestamp
    last_updated_date: Timestamp
    target_key_id: KeyId | None = None


class GrantConstraints(Shape, frozen=True):
    """Constraints of a grant."""

    encryption_context_subset: EncryptionContext | None = None
    encryption_context_equals: EncryptionContext | None = None
    source_arn: SourceArn | None = None


class GrantListEntry(Shape, frozen=True):
    """An entry of ListGrants."""

    key_id: KeyId
    grant_id: GrantId
    creation_date: Timestamp
    grantee_principal: Principal
    issuing_account: Principal
    operations: GrantOperations
    name: GrantName | None = None
    retiring_principal: Principal | None = None
    constraints: GrantConstraints | None = None


class RotationsListEntry(Shape, frozen=True):
    """An entry of ListKeyRotations."""

    key_id: KeyId
    rotation_date: Timestamp | None = None
    rotation_type: str | None = None
    key_material_id: KeyMaterialId | None = None
    key_material_description: KeyMaterialDescription | None = None
    key_material_state: str | None = None
    import_state: str | None = None
    expiration_model: ExpirationModel | None = None
    valid_to: Timestamp | None = None
