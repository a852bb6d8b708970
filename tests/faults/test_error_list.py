"""Every error that an operation declares can be produced, and is; and none of them changes anything."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd import services
from kmsd.adapters.sqlite.shared_commit import BUSY_SECONDS
from kmsd.jobs import reconcile
from kmsd.operations.declaration import Kind
from kmsd.operations.description import errors_of
from kmsd.services import OPERATIONS
from tests.support.clients import code_of
from tests.support.harness import Harness

ME = "arn:aws:iam::000000000000:user/admin"
ABSENT = "00000000-0000-4000-8000-000000000000"
IMPORTS = {"GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"}
"""They have tests of their own (test_import*.py)."""
ENCAPSULATION = {"Encapsulate", "Decapsulate"}
"""No key of SoftHSM can do them: they have tests of their own, too."""
KMS = {one.name: one for one in OPERATIONS if one.service is services.KMS and one.name not in IMPORTS | ENCAPSULATION}


@dataclass
class Scene:
    """A key with all that a request may need, and the request for one operation."""

    harness: Harness
    operation: str
    kms: Any = field(init=False)
    key_id: str = ""
    request: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kms = self.harness.client(parameter_validation=False)
        self.key_id = self.new_key()
        self.request = self._request()

    def new_key(self, **members: Any) -> str:
        """A fresh key."""
        return str(self.kms.create_key(**members)["KeyMetadata"]["KeyId"])

    def of_kind(self, spec: str, usage: str) -> str:
        """A fresh key of another kind."""
        return self.new_key(KeySpec=spec, KeyUsage=usage)

    def _request_of_kind(self) -> dict[str, Any]:
        """What makes an operation of other kinds of keys succeed; empty for the rest."""
        kms = self.kms
        if self.operation in {"Sign", "Verify", "GetPublicKey"}:
            key = {"KeyId": self.of_kind("ECC_NIST_P256", "SIGN_VERIFY")}
            signed = {**key, "Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"}
            verified = {**signed, "Signature": kms.sign(**signed)["Signature"]}
            return {"Sign": signed, "Verify": verified, "GetPublicKey": key}[self.operation]
        if self.operation in {"GenerateMac", "VerifyMac"}:
            key = {"KeyId": self.of_kind("HMAC_256", "GENERATE_VERIFY_MAC")}
            made = {**key, "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}
            return made if self.operation == "GenerateMac" else {**made, "Mac": kms.generate_mac(**made)["Mac"]}
        if self.operation == "DeriveSharedSecret":
            key_id = self.of_kind("ECC_NIST_P256", "KEY_AGREEMENT")
            public = kms.get_public_key(KeyId=key_id)["PublicKey"]
            return {"KeyId": key_id, "PublicKey": public, "KeyAgreementAlgorithm": "ECDH"}
        return {}

    def _request(self) -> dict[str, Any]:
        """What makes the operation succeed."""
        kms, key_id = self.kms, self.key_id
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        grant = kms.create_grant(KeyId=key_id, GranteePrincipal=ME, RetiringPrincipal=ME, Operations=["Decrypt"])
        kms.create_alias(AliasName=f"alias/{key_id}", TargetKeyId=key_id)
        if self.operation == "CancelKeyDeletion":
            kms.schedule_key_deletion(KeyId=key_id)
        requests: dict[str, dict[str, Any]] = {
            "CreateAlias": {"AliasName": f"alias/new-{key_id}", "TargetKeyId": key_id},
            "CreateGrant": {"KeyId": key_id, "GranteePrincipal": ME, "Operations": ["Decrypt"]},
            "CreateKey": {},
            "Decrypt": {"CiphertextBlob": blob},
            "DeleteAlias": {"AliasName": f"alias/{key_id}"},
            "Encrypt": {"KeyId": key_id, "Plaintext": b"x"},
            "GenerateDataKey": {"KeyId": key_id, "KeySpec": "AES_128"},
            "GenerateDataKeyWithoutPlaintext": {"KeyId": key_id, "KeySpec": "AES_128"},
            "GenerateDataKeyPair": {"KeyId": key_id, "KeyPairSpec": "ECC_NIST_P256"},
            "GenerateDataKeyPairWithoutPlaintext": {"KeyId": key_id, "KeyPairSpec": "ECC_NIST_P256"},
            "GenerateRandom": {"NumberOfBytes": 4},
            "ListAliases": {"KeyId": key_id},
            "ListKeys": {},
            "ListRetirableGrants": {"RetiringPrincipal": ME},
            "PutKeyPolicy": {"KeyId": key_id, "Policy": kms.get_key_policy(KeyId=key_id)["Policy"]}
            if self.operation == "PutKeyPolicy"
            else {},
            "ReEncrypt": {"CiphertextBlob": blob, "DestinationKeyId": self.new_key()},
            "RetireGrant": {"KeyId": key_id, "GrantId": grant["GrantId"]},
            "RevokeGrant": {"KeyId": key_id, "GrantId": grant["GrantId"]},
            "TagResource": {"KeyId": key_id, "Tags": [{"TagKey": "a", "TagValue": "b"}]},
            "UntagResource": {"KeyId": key_id, "TagKeys": ["a"]},
            "UpdateAlias": {"AliasName": f"alias/{key_id}", "TargetKeyId": self.new_key()},
            "UpdateKeyDescription": {"KeyId": key_id, "Description": "d"},
        }
        return self._request_of_kind() or requests.get(self.operation, {"KeyId": key_id})

    def code(self, **changes: Any) -> str:
        """The error that the operation answers with, its request changed; empty if it works."""
        request = {name: value for name, value in {**self.request, **changes}.items() if value is not None}
        return code_of(partial(self.kms._make_api_call, self.operation, request))

    @property
    def key_member(self) -> str:
        """The member by which the request names the key."""
        if self.operation == "ReEncrypt":
            return "DestinationKeyId"
        return "TargetKeyId" if "TargetKeyId" in self.request else "KeyId"


@contextmanager
def locked(harness: Harness) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    store: Any = harness.components.store
    store._commits.busy_seconds = 0.02
    other = sqlite3.connect(harness.config.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()
        store._commits.busy_seconds = BUSY_SECONDS


@contextmanager
def no_trail(harness: Harness) -> Iterator[None]:
    """The audit trail's folder is gone."""
    away = harness.config.audit_dir.with_name("away")
    harness.config.audit_dir.rename(away)
    try:
        yield
    finally:
        away.rename(harness.config.audit_dir)


def without_material(scene: Scene) -> str:
    """The token has lost the key's object, or the domain key that wraps its material."""
    reader = scene.harness.run(scene.harness.components.store.read())
    key = scene.harness.run(
        reader.key(scene.request.get("KeyId") or scene.request.get("DestinationKeyId") or scene.key_id)
    )
    assert key is not None
    assert key.current_material is not None
    if (wrapped := key.current_material.wrapped) is not None:
        scene.harness.run(_set_missing(scene.harness, wrapped.domain_key_id, is_missing=True))
        try:
            return scene.code()
        finally:
            scene.harness.run(_set_missing(scene.harness, wrapped.domain_key_id, is_missing=False))
    components = scene.harness.components
    scene.harness.run(components.token.destroy(key.current_material.material_id))
    if scene.operation == "Verify":
        # It does not ask the token, so it waits for reconcile to miss the object.
        scene.harness.run(reconcile.run_once(components.store, components.token, scene.harness.clock.now()))
    return scene.code()


async def _set_missing(harness: Harness, domain_key_id: bytes, *, is_missing: bool) -> None:
    """What reconcile does when it does not find a domain key, or finds it again."""
    async with harness.components.store.write() as transaction:
        await transaction.set_domain_key_held(domain_key_id, is_held=not is_missing)


def in_state(scene: Scene, state: str) -> str:
    """The key is brought into a state first."""
    name = scene.request.get(scene.key_member, scene.key_id)
    if state == "disabled":
        scene.kms.disable_key(KeyId=name)
    else:
        scene.kms.schedule_key_deletion(KeyId=name)
    return scene.code()


def timed_out(scene: Scene) -> str:
    """The store does not answer in time; or, for what only reads, the token does not."""
    with locked(scene.harness):
        return scene.code()


def unrecorded(scene: Scene) -> str:
    """The record cannot be written."""
    with no_trail(scene.harness):
        return scene.code()


MANY_TAGS = [{"TagKey": f"k{number}", "TagValue": ""} for number in range(51)]


def limit(scene: Scene) -> str:
    """Over a resource limit."""
    match scene.operation:
        case "CreateKey" | "PutKeyPolicy":
            policy = json.loads(scene.kms.get_key_policy(KeyId=scene.key_id)["Policy"])
            policy["Id"] = "x" * 33_000
            return scene.code(Policy=json.dumps(policy))
        case "TagResource":
            return scene.code(Tags=MANY_TAGS)
        case "CreateGrant":
            return scene.code(Constraints={"EncryptionContextEquals": {str(number): "" for number in range(9)}})
        case "RotateKeyOnDemand":
            for _ in range(25):
                scene.kms.rotate_key_on_demand(KeyId=scene.key_id)
            return scene.code()
        case _:
            target = scene.request["TargetKeyId"]
            for number in range(51):
                try:
                    scene.kms.create_alias(AliasName=f"alias/{target}-{number}", TargetKeyId=target)
                except ClientError:
                    break
            return scene.code()


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "CreateGrant": {"GranteeServicePrincipal": "logs.us-east-1.amazonaws.com"},
    "CreateKey": {"KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY"},
    "Decrypt": {"Recipient": {}},
    "DeriveSharedSecret": {"Recipient": {}},
    "GenerateDataKey": {"Recipient": {}},
    "GenerateDataKeyPair": {"KeyPairSpec": "SM2"},
    "GenerateDataKeyPairWithoutPlaintext": {"KeyPairSpec": "SM2"},
    "GenerateRandom": {"CustomKeyStoreId": "cks-1"},
    "ListGrants": {"GranteeServicePrincipal": "logs.us-east-1.amazonaws.com"},
    "ListRetirableGrants": {"RetiringServicePrincipal": "logs.us-east-1.amazonaws.com"},
    "Sign": {"MessageType": "EXTERNAL_MU"},
    "Verify": {"MessageType": "EXTERNAL_MU"},
}
SHA_256 = "RSAES_OAEP_SHA_256"
"""The algorithm that SoftHSM's RSA keys lack."""


def unsupported(scene: Scene) -> str:
    """What this daemon, or this kind of key, cannot do."""
    if scene.operation in UNSUPPORTED:
        return scene.code(**UNSUPPORTED[scene.operation])
    match scene.operation:
        case "Encrypt":
            return scene.code(KeyId=scene.of_kind("RSA_2048", "ENCRYPT_DECRYPT"), EncryptionAlgorithm=SHA_256)
        case "ReEncrypt":
            key_id = scene.of_kind("RSA_2048", "ENCRYPT_DECRYPT")
            return scene.code(DestinationKeyId=key_id, DestinationEncryptionAlgorithm=SHA_256)
        case "GetPublicKey" | "ListKeyRotations" | "RotateKeyOnDemand":
            return scene.code(KeyId=scene.of_kind("HMAC_256", "GENERATE_VERIFY_MAC"))
    return scene.code(KeyId=scene.new_key(Origin="EXTERNAL"))


def wrong_usage(scene: Scene) -> str:
    """A key for another purpose."""
    kind = ("HMAC_256", "GENERATE_VERIFY_MAC")
    if scene.operation in {"GenerateMac", "VerifyMac"}:
        kind = ("ECC_NIST_P256", "SIGN_VERIFY")
    return scene.code(**{scene.key_member: scene.of_kind(*kind)})


def incorrect_key(scene: Scene) -> str:
    """Another key than the blob's is named."""
    return scene.code(**{"SourceKeyId" if scene.operation == "ReEncrypt" else "KeyId": scene.new_key()})


def not_found(scene: Scene) -> str:
    """A key, alias or principal that is not there."""
    if scene.operation == "DeleteAlias":
        return scene.code(AliasName="alias/none")
    if scene.operation == "ListRetirableGrants":
        return scene.code(RetiringPrincipal="arn:aws:iam::111122223333:user/x")
    return scene.code(**{scene.key_member: ABSENT})


def malformed(scene: Scene) -> str:
    """Not a policy."""
    return scene.code(Policy='{"Version": "2012-10-17"}')


def invalid_arn(scene: Scene) -> str:
    """An ARN of another service, or of nobody."""
    if scene.operation == "ListRetirableGrants":
        return scene.code(RetiringPrincipal="nobody")
    return scene.code(**{scene.key_member: "arn:aws:s3:us-east-1:000000000000:key/x"})


PRODUCE: dict[str, Callable[[Scene], str]] = {
    "AlreadyExistsException": lambda scene: scene.code(AliasName=f"alias/{scene.key_id}"),
    "DependencyTimeoutException": timed_out,
    "DisabledException": lambda scene: in_state(scene, "disabled"),
    "DryRunOperationException": lambda scene: scene.code(DryRun=True),
    "IncorrectKeyException": incorrect_key,
    "InvalidAliasNameException": lambda scene: scene.code(AliasName="alias/aws/x"),
    "InvalidArnException": invalid_arn,
    "InvalidCiphertextException": lambda scene: scene.code(CiphertextBlob=b"nonsense"),
    "InvalidGrantIdException": lambda scene: scene.code(GrantId="zz"),
    "InvalidGrantTokenException": lambda scene: scene.code(
        **(
            {"GrantToken": "nonsense", "KeyId": None, "GrantId": None}
            if scene.operation == "RetireGrant"
            else {"GrantTokens": ["nonsense"]}
        )
    ),
    "InvalidKeyUsageException": wrong_usage,
    "InvalidMarkerException": lambda scene: scene.code(Marker="nonsense"),
    "KeyUnavailableException": without_material,
    "KMSInternalException": unrecorded,
    "KMSInvalidMacException": lambda scene: scene.code(Mac=b"x"),
    "KMSInvalidSignatureException": lambda scene: scene.code(Signature=b"x"),
    "KMSInvalidStateException": lambda scene: (
        scene.code(KeyId=scene.new_key()) if scene.operation == "CancelKeyDeletion" else in_state(scene, "pending")
    ),
    "LimitExceededException": limit,
    "MalformedPolicyDocumentException": malformed,
    "NotFoundException": not_found,
    "TagException": lambda scene: scene.code(
        **(
            {"TagKeys": ["aws:x"]}
            if scene.operation == "UntagResource"
            else {"Tags": [{"TagKey": "aws:x", "TagValue": ""}]}
        )
    ),
    "UnsupportedOperationException": unsupported,
}


def uses_material(name: str) -> bool:
    """Whether the operation needs the key's object."""
    return KMS[name].kind is Kind.CRYPTOGRAPHIC and name != "GenerateRandom"


def possible(name: str, error: str) -> bool:
    """What can arise: what only reads waits for nobody; what needs no material does not miss it (divergences.md)."""
    if error == "DependencyTimeoutException":
        return KMS[name].writes
    if error == "KeyUnavailableException":
        return uses_material(name)
    return True


CASES = [(name, error) for name, one in KMS.items() for error in errors_of(one) if possible(name, error)]


@pytest.mark.parametrize(("name", "error"), CASES, ids=str)
def test_each_declared_error_is_produced(harness: Harness, name: str, error: str) -> None:
    """The request that succeeds, changed in one respect, answers with this error."""
    scene = Scene(harness, name)
    assert PRODUCE[error](scene) == error


@pytest.mark.parametrize("name", KMS)
def test_the_unchanged_request_succeeds(harness: Harness, name: str) -> None:
    """So that the errors above are those of the change."""
    assert Scene(harness, name).code() == ""
