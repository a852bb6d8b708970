"""Condition keys, each with a request that brings a value of it; and the site that they act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.support.clients import ACCOUNT, REGION, Credentials
from tests.support.harness import Harness
from tests.support.log_service import arn_of

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
SOMEBODY = f"arn:aws:iam::{ACCOUNT}:user/somebody"
SERVICE = f"logs.{REGION}.amazonaws.com"
Act = Callable[["Site", Any], Any]
"""What a caller tries, with a client of its own."""


@dataclass
class Site:
    """A key with everything that conditions can ask for, and things to act on."""

    harness: Harness
    key: str = ""
    blob: bytes = b""
    keys: dict[str, str] = field(default_factory=dict)
    """A key of each other usage."""
    user: Credentials = field(default_factory=lambda: Credentials("", ""))

    @property
    def admin(self) -> Any:
        """The administrator's client."""
        return self.harness.client()

    def grant(self) -> str:
        """A grant with a constraint, which principals of the account may retire by an identity policy."""
        found = self.admin.create_grant(
            KeyId=self.key,
            GranteePrincipal=SOMEBODY,
            RetiringPrincipal=SOMEBODY,
            Operations=["Encrypt"],
            Constraints={"EncryptionContextSubset": {"team": "a"}},
        )
        return str(found["GrantId"])

    def external(self) -> str:
        """A key that awaits import."""
        return str(self.admin.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"])


@dataclass(frozen=True)
class Row:
    """A condition key in a policy of the caller's."""

    key: str
    value: Any
    """What the request brings."""
    other: Any
    """What it does not bring."""
    act: Act
    operator: str = "StringEquals"
    session: bool = False
    """Act with temporary credentials of the user."""
    action: str = "*"
    """The action to which the condition applies; the others of the request are allowed."""


def encrypt(site: Site, kms: Any, **members: Any) -> Any:
    """Encrypt under the key."""
    return kms.encrypt(**{"KeyId": site.key, "Plaintext": b"x", **members})


def in_context(site: Site, kms: Any) -> Any:
    """Encrypt with an encryption context."""
    return encrypt(site, kms, EncryptionContext={"team": "a"})


def by_alias(site: Site, kms: Any) -> Any:
    """Encrypt, the key being named by an alias."""
    return encrypt(site, kms, KeyId="alias/conditions")


def rotate(site: Site, kms: Any) -> Any:
    """Turn rotation on, with the default period."""
    return kms.enable_key_rotation(KeyId=site.key)


def create_key(_: Site, kms: Any, **members: Any) -> Any:
    """Make a key."""
    return kms.create_key(Description="condition", **members)


def create_grant(site: Site, kms: Any, **members: Any) -> Any:
    """Make a grant with a constraint."""
    constraints = {"EncryptionContextEquals": {"team": "a"}}
    return kms.create_grant(
        KeyId=site.key,
        GranteePrincipal=SOMEBODY,
        RetiringPrincipal=SOMEBODY,
        Operations=["Encrypt"],
        Constraints=constraints,
        **members,
    )


def retire(site: Site, kms: Any) -> Any:
    """Retire a grant with a constraint."""
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{site.key}"
    return kms.retire_grant(KeyId=arn, GrantId=site.grant())


def reencrypt(site: Site, kms: Any) -> Any:
    """Re-encrypt under the same key."""
    return kms.re_encrypt(CiphertextBlob=site.blob, DestinationKeyId=site.key)


def parameters(site: Site, kms: Any) -> Any:
    """Ask for import parameters."""
    return kms.get_parameters_for_import(
        KeyId=site.external(), WrappingAlgorithm="RSAES_OAEP_SHA_1", WrappingKeySpec="RSA_2048"
    )


def import_material(site: Site, kms: Any) -> Any:
    """Import material that nobody wrapped: it is authorised before it is looked at."""
    until = datetime(2099, 1, 1, tzinfo=UTC)
    return kms.import_key_material(KeyId=site.external(), ImportToken=b"x", EncryptedKeyMaterial=b"x", ValidTo=until)


def sign(site: Site, kms: Any) -> Any:
    """Sign a digest."""
    return kms.sign(
        KeyId=site.keys["SIGN_VERIFY"], Message=bytes(32), MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256"
    )


def sign_message(site: Site, kms: Any) -> Any:
    """Sign a message, without naming its type."""
    return kms.sign(KeyId=site.keys["SIGN_VERIFY"], Message=b"x", SigningAlgorithm="ECDSA_SHA_256")


def verify(site: Site, kms: Any) -> Any:
    """Verify what is no signature: it is authorised before it is looked at."""
    return kms.verify(KeyId=site.keys["SIGN_VERIFY"], Message=b"x", Signature=b"x", SigningAlgorithm="ECDSA_SHA_256")


def mac(site: Site, kms: Any) -> Any:
    """Compute a MAC."""
    return kms.generate_mac(KeyId=site.keys["GENERATE_VERIFY_MAC"], Message=b"x", MacAlgorithm="HMAC_SHA_256")


def verify_mac(site: Site, kms: Any) -> Any:
    """Verify what is no MAC."""
    members = {"KeyId": site.keys["GENERATE_VERIFY_MAC"], "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}
    return kms.verify_mac(**members, Mac=b"x")


def agree(site: Site, kms: Any) -> Any:
    """Derive a secret with what is no public key."""
    return kms.derive_shared_secret(KeyId=site.keys["KEY_AGREEMENT"], PublicKey=b"x", KeyAgreementAlgorithm="ECDH")


def pair(site: Site, kms: Any) -> Any:
    """Ask for a data key pair."""
    return kms.generate_data_key_pair(KeyId=site.key, KeyPairSpec="ECC_NIST_P256")


def to_rsa(site: Site, kms: Any) -> Any:
    """Re-encrypt under an RSA key: the two sides have algorithms of their own."""
    return kms.re_encrypt(
        CiphertextBlob=site.blob,
        DestinationKeyId=site.keys["ENCRYPT_DECRYPT"],
        DestinationEncryptionAlgorithm="RSAES_OAEP_SHA_1",
    )


ANY = "ForAnyValue:StringEquals"
FAR, PAST = "2098-12-31T00:00:00Z", "2001-01-01T00:00:00Z"
TAGS = [{"TagKey": "team", "TagValue": "a"}]
ROWS = [
    Row("aws:CurrentTime", FAR, PAST, encrypt, "DateLessThan"),
    Row("aws:EpochTime", "4070908800", "1", encrypt, "NumericLessThan"),
    Row("aws:MultiFactorAuthPresent", "false", "true", encrypt, "Bool", session=True),
    Row("aws:PrincipalAccount", ACCOUNT, "111122223333", encrypt),
    Row("aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:user/cond*", SOMEBODY, encrypt, "ArnLike"),
    Row("aws:PrincipalIsAWSService", "false", "true", encrypt, "Bool"),
    Row("aws:PrincipalTag/${TagKey}", "blue", "red", encrypt),
    Row("aws:PrincipalType", "User", "AssumedRole", encrypt),
    Row("aws:RequestedRegion", REGION, "eu-west-1", encrypt),
    Row("aws:RequestTag/${TagKey}", "a", "b", lambda site, kms: create_key(site, kms, Tags=TAGS)),
    Row("aws:RequestTag/${TagKey}", "a", "b", lambda site, kms: kms.tag_resource(KeyId=site.key, Tags=TAGS)),
    Row("aws:ResourceAccount", ACCOUNT, "111122223333", encrypt),
    Row("aws:ResourceAccount", ACCOUNT, "111122223333", lambda _, kms: kms.list_keys()),
    Row("aws:ResourceTag/${TagKey}", "prod", "dev", encrypt),
    Row("aws:SecureTransport", "false", "true", encrypt, "Bool"),
    Row("aws:SourceIp", "127.0.0.0/8", "192.0.2.0/24", encrypt, "IpAddress"),
    Row("aws:TagKeys", "team", "env", lambda site, kms: create_key(site, kms, Tags=TAGS), ANY),
    Row("aws:TagKeys", "x", "y", lambda site, kms: kms.untag_resource(KeyId=site.key, TagKeys=["x"]), ANY),
    Row("aws:TokenIssueTime", FAR, PAST, encrypt, "DateLessThan", session=True),
    Row("aws:UserAgent", "Boto*", "curl*", encrypt, "StringLike"),
    Row("aws:userid", "AIDA*", "AROA*", encrypt, "StringLike"),
    Row("aws:username", "cond*", "somebody", encrypt, "StringLike"),
    Row("aws:ViaAWSService", "false", "true", encrypt, "Bool"),
    Row(
        "kms:BypassPolicyLockoutSafetyCheck",
        "true",
        "false",
        lambda site, kms: create_key(site, kms, BypassPolicyLockoutSafetyCheck=True),
        "Bool",
    ),
    Row("kms:BypassPolicyLockoutSafetyCheck", "false", "true", create_key, "Bool"),
    Row("kms:CallerAccount", ACCOUNT, "111122223333", encrypt),
    Row("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", encrypt),
    Row("kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", create_key),
    Row("kms:CustomerMasterKeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", encrypt),
    Row("kms:CustomerMasterKeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", create_key),
    Row("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", encrypt),
    Row("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", reencrypt),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", in_context),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", create_grant),
    Row("kms:EncryptionContext:${EncryptionContextKey}", "a", "b", retire),
    Row("kms:EncryptionContextKeys", "team", "env", in_context, ANY),
    Row("kms:EncryptionContextKeys", "team", "env", create_grant, ANY),
    Row("kms:EncryptionContextKeys", "team", "env", retire, ANY),
    Row("kms:ExpirationModel", "KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE", import_material),
    Row("kms:GrantConstraintType", "EncryptionContextEquals", "EncryptionContextSubset", create_grant),
    Row("kms:GrantConstraintType", "EncryptionContextSubset", "EncryptionContextEquals", retire),
    Row("kms:GranteePrincipal", SOMEBODY, ROOT, create_grant),
    Row("kms:GrantIsForAWSResource", "false", "true", create_grant, "Bool"),
    Row("kms:GrantIsForAWSResource", "false", "true", lambda site, kms: kms.list_grants(KeyId=site.key), "Bool"),
    Row(
        "kms:GrantIsForAWSResource",
        "false",
        "true",
        lambda site, kms: kms.revoke_grant(KeyId=site.key, GrantId=site.grant()),
        "Bool",
    ),
    Row("kms:GrantOperations", "Encrypt", "Decrypt", create_grant, ANY),
    Row("kms:KeyOrigin", "AWS_KMS", "EXTERNAL", encrypt),
    Row("kms:KeyOrigin", "AWS_KMS", "EXTERNAL", create_key),
    Row("kms:KeyOrigin", "EXTERNAL", "AWS_KMS", lambda site, kms: create_key(site, kms, Origin="EXTERNAL")),
    Row("kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", encrypt),
    Row("kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048", create_key),
    Row("kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", encrypt),
    Row("kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", create_key),
    Row("kms:MultiRegion", "false", "true", encrypt, "Bool"),
    Row("kms:MultiRegion", "false", "true", create_key, "Bool"),
    Row("kms:ReEncryptOnSameKey", "true", "false", reencrypt, "Bool"),
    Row("kms:RequestAlias", "alias/conditions", "alias/x", by_alias),
    Row("kms:ResourceAliases", "alias/conditions", "alias/x", encrypt, ANY),
    Row("kms:RetiringPrincipal", SOMEBODY, ROOT, create_grant),
    Row("kms:RotationPeriodInDays", "365", "90", rotate, "NumericEquals"),
    Row(
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        "30",
        "7",
        lambda site, kms: kms.schedule_key_deletion(KeyId=site.external()),
        "NumericEquals",
    ),
    Row("kms:ValidTo", "2099-01-01T00:00:00Z", PAST, import_material, "DateEquals"),
    Row("kms:WrappingAlgorithm", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", parameters),
    Row("kms:WrappingKeySpec", "RSA_2048", "RSA_4096", parameters),
    Row("kms:DataKeyPairSpec", "ECC_NIST_P256", "RSA_2048", pair),
    Row("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", to_rsa, action="kms:ReEncryptFrom"),
    Row("kms:EncryptionAlgorithm", "RSAES_OAEP_SHA_1", "SYMMETRIC_DEFAULT", to_rsa, action="kms:ReEncryptTo"),
    Row("kms:KeyAgreementAlgorithm", "ECDH", "x", agree),
    Row("kms:KeySpec", "ECC_NIST_P256", "SYMMETRIC_DEFAULT", sign),
    Row("kms:KeyUsage", "SIGN_VERIFY", "ENCRYPT_DECRYPT", sign),
    Row("kms:MacAlgorithm", "HMAC_SHA_256", "HMAC_SHA_512", mac),
    Row("kms:MacAlgorithm", "HMAC_SHA_256", "HMAC_SHA_512", verify_mac),
    Row("kms:MessageType", "DIGEST", "RAW", sign),
    Row("kms:MessageType", "RAW", "DIGEST", sign_message),
    Row("kms:MessageType", "RAW", "DIGEST", verify),
    Row("kms:SigningAlgorithm", "ECDSA_SHA_256", "ECDSA_SHA_384", sign),
    Row("kms:SigningAlgorithm", "ECDSA_SHA_256", "ECDSA_SHA_384", verify),
]  # fmt: skip

FOR_THE_SERVICE = [
    ("aws:PrincipalIsAWSService", "Bool", "true", "false"),
    ("aws:PrincipalServiceName", "StringEquals", SERVICE, "s3.amazonaws.com"),
    ("aws:PrincipalServiceNamesList", ANY, "logs.amazonaws.com", "s3.amazonaws.com"),
    ("aws:PrincipalType", "StringEquals", "Service", "User"),
    ("aws:SourceAccount", "StringEquals", ACCOUNT, "111122223333"),
    ("aws:SourceArn", "ArnLike", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/conditions/*", arn_of("/other")),
    ("aws:SecureTransport", "Bool", "true", "false"),
    ("aws:ViaAWSService", "Bool", "false", "true"),
    ("aws:ResourceAccount", "StringEquals", ACCOUNT, "111122223333"),
    ("aws:ResourceTag/env", "StringEquals", "prod", "dev"),
    ("kms:ResourceAliases", "ForAnyValue:StringLike", "alias/service-*", "alias/x"),
    ("kms:KeySpec", "StringEquals", "SYMMETRIC_DEFAULT", "RSA_2048"),
    ("aws:CurrentTime", "DateLessThan", FAR, PAST),
    ("aws:RequestedRegion", "StringEquals", REGION, "eu-west-1"),
]
FOR_A_ROLE = [
    ("sts:ExternalId", "StringEquals", "outside", "inside"),
    ("sts:RoleSessionName", "StringEquals", "conditions", "other"),
    ("iam:ResourceTag/team", "StringEquals", "blue", "red"),
    ("aws:ResourceTag/team", "StringEquals", "blue", "red"),
    ("aws:ResourceAccount", "StringEquals", ACCOUNT, "111122223333"),
]
