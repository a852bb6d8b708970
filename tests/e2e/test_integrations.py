"""docs/integrations.md: under each policy of the page a client's calls succeed, and everything else is refused.

The calls are replayed here as the clients' sources send them: members, order, encryption context. The clients that can
be installed run in test_integration_clients.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.clients import ACCOUNT, REGION, code_of
from tests.support.daemon import Daemon
from tests.support.integration_site import PAGE, Site, blocks, site_of
from tests.support.page_commands import commands
from tests.support.plain_http import send

CONTEXTS: dict[str, dict[str, str]] = {
    "sops": {"app": "shop"},
    "openbao": {},
    "seaweedfs": {"aws:s3:arn": "arn:aws:s3:::docs/report.txt"},
    "encryption-sdk": {"app": "shop"},
    "mongodb": {},
    "rustfs": {"docs": "docs/report.txt"},
    "kubernetes": {"cluster": "one"},
    "kroxylicious": {},
}
"""The encryption context that each client sends."""


@pytest.fixture(name="site", scope="module")
def _site(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return site_of(daemon, tmp_path_factory.mktemp("typed"), lambda who: daemon.client("kms", who))


BY_CLIENTS = {
    *("sops", "encryption-sdk", "seaweedfs-config", "seaweedfs"),
    *("openbao-config", "openbao-serve", "openbao-init"),
}
"""Blocks that test_integration_clients.py types."""


def test_no_block_is_left_out() -> None:
    """A section that is added has a test, and so has each block of commands."""
    users = {f"{name}-user" for name in (*CONTEXTS, "terraform")}
    assert set(blocks()) == {"key", "trail", *users, *BY_CLIENTS}


def data_keys(site: Site, name: str, **size: Any) -> None:
    """GenerateDataKey for what is written, Decrypt of the blob alone for what is read."""
    kms, context = site.client(name), CONTEXTS[name]
    more = {"EncryptionContext": context} if context else {}
    made = kms.generate_data_key(KeyId=site.key, **size, **more)
    assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"], **more)["Plaintext"] == made["Plaintext"]


def encryptions(site: Site, name: str, plaintext: bytes) -> None:
    """Encrypt, and Decrypt of the blob alone."""
    kms, context = site.client(name), CONTEXTS[name]
    more = {"EncryptionContext": context} if context else {}
    blob = kms.encrypt(KeyId=site.key, Plaintext=plaintext, **more)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, **more)["Plaintext"] == plaintext


def test_sops(site: Site) -> None:
    """Encrypt, Decrypt: a data key of 32 bytes for each file (sops, kms/keysource.go)."""
    encryptions(site, "sops", b"k" * 32)
    shown = site.typed(commands(PAGE, "trail"))
    assert ["Encrypt" in shown, "Decrypt" in shown, "AccessDenied" in shown] == [True, True, False]
    site.check_policy("sops", CONTEXTS["sops"])
    assert "AccessDenied" in site.typed(commands(PAGE, "trail"))


def test_openbao(site: Site) -> None:
    """DescribeKey at a start; Encrypt, Decrypt of the wrapping key (go-kms-wrapping, wrappers/awskms)."""
    site.client("openbao").describe_key(KeyId=site.key)
    encryptions(site, "openbao", b"k" * 32)
    site.check_policy("openbao", CONTEXTS["openbao"])


def test_seaweedfs(site: Site) -> None:
    """A data key for each object; its probe by DescribeKey of a key that is not there is refused (weed/kms/aws)."""
    assert code_of(site.client("seaweedfs").describe_key, KeyId="health-check-dummy-key") == "NotFoundException"
    data_keys(site, "seaweedfs", KeySpec="AES_256")
    site.check_policy("seaweedfs", CONTEXTS["seaweedfs"])


def test_encryption_sdk(site: Site) -> None:
    """GenerateDataKey by number of bytes, Decrypt with the key's ARN; a context with the SDK's own pair in it."""
    kms = site.client("encryption-sdk")
    context = {**CONTEXTS["encryption-sdk"], "aws-crypto-public-key": "A+Q50EocyhXcfmkI2sJeb5+ej7NHKgIqK6f08F0zi6Hs"}
    made = kms.generate_data_key(KeyId=site.key, NumberOfBytes=32, EncryptionContext=context)
    assert made["KeyId"] == site.key
    read = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], KeyId=site.key, EncryptionContext=context)
    assert (read["KeyId"], read["Plaintext"]) == (site.key, made["Plaintext"])
    site.check_policy("encryption-sdk", CONTEXTS["encryption-sdk"])


def test_mongodb(site: Site) -> None:
    """Encrypt of a data key of 96 bytes, Decrypt (libmongocrypt, kms-message)."""
    encryptions(site, "mongodb", b"k" * 96)
    site.check_policy("mongodb", CONTEXTS["mongodb"])


def test_rustfs(site: Site) -> None:
    """DescribeKey, then a data key for each object (crates/kms/src/backends/aws.rs)."""
    site.client("rustfs").describe_key(KeyId=site.key)
    data_keys(site, "rustfs", KeySpec="AES_256")
    site.check_policy("rustfs", CONTEXTS["rustfs"])


def test_kubernetes(site: Site) -> None:
    """Encrypt, Decrypt of a seed, and of `foo` for the health check (pkg/plugin/plugin_v2.go)."""
    for plaintext in (b"k" * 32, b"foo"):
        encryptions(site, "kubernetes", plaintext)
    site.check_policy("kubernetes", CONTEXTS["kubernetes"])


def test_kroxylicious(site: Site) -> None:
    """Its own requests, without an SDK: the alias, a data key by the id found, Decrypt with that id (AwsKms.java)."""
    who = site.user("kroxylicious")

    def ask(operation: str, **members: Any) -> Any:
        body = json.dumps(members, separators=(",", ":")).encode()
        answer = send(site.daemon.endpoint, who, f"TrentService.{operation}", body)
        assert answer.status == 200, answer.body
        return answer.json

    key_id = ask("DescribeKey", KeyId="alias/shop")["KeyMetadata"]["KeyId"]
    made = ask("GenerateDataKey", KeyId=key_id, KeySpec="AES_256")
    read = ask("Decrypt", KeyId=key_id, CiphertextBlob=made["CiphertextBlob"])
    assert read["Plaintext"] == made["Plaintext"]
    absent = send(site.daemon.endpoint, who, "TrentService.DescribeKey", b'{"KeyId":"alias/absent"}')
    # The provider takes this name for a topic without a key.
    assert absent.json["__type"] == "NotFoundException"
    site.check_policy("kroxylicious", CONTEXTS["kroxylicious"])


class Provider:
    """`aws_kms_key` and `aws_kms_alias` of the AWS provider 6 (internal/service/kms)."""

    def __init__(self, kms: Any) -> None:
        self.kms = kms

    def read(self, key_id: str) -> dict[str, Any]:
        """The key as a plan sees it."""
        metadata = self.kms.describe_key(KeyId=key_id)["KeyMetadata"]
        self.kms.get_key_policy(KeyId=key_id, PolicyName="default")
        rotation = self.kms.get_key_rotation_status(KeyId=key_id)
        tags = self.kms.list_resource_tags(KeyId=key_id)["Tags"]
        return {
            "description": metadata["Description"],
            "enabled": metadata["Enabled"],
            "rotation": (rotation["KeyRotationEnabled"], rotation.get("RotationPeriodInDays")),
            "tags": {tag["TagKey"]: tag["TagValue"] for tag in tags},
        }

    def alias(self, name: str) -> str | None:
        """The target of an alias, from all pages of the list."""
        pages = self.kms.get_paginator("list_aliases").paginate()
        return next((one["TargetKeyId"] for page in pages for one in page["Aliases"] if one["AliasName"] == name), None)


TAGS = [{"TagKey": "managed-by", "TagValue": "terraform"}, {"TagKey": "stage", "TagValue": "test"}]


def terraform_key(kms: Any, description: str) -> str:
    """A new key, as the provider makes it."""
    made = kms.create_key(
        BypassPolicyLockoutSafetyCheck=False,
        KeySpec="SYMMETRIC_DEFAULT",
        KeyUsage="ENCRYPT_DECRYPT",
        Tags=TAGS,
        Description=description,
    )
    return str(made["KeyMetadata"]["KeyId"])


def test_terraform(site: Site) -> None:
    """Create, read, update, destroy; after each change the provider reads what it has set."""
    kms = site.client("terraform")
    provider, name = Provider(kms), "alias/shop-orders"
    key_id = terraform_key(kms, "orders")
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=180)
    tags = {"managed-by": "terraform", "stage": "test"}
    assert provider.read(key_id) == {"description": "orders", "enabled": True, "rotation": (True, 180), "tags": tags}
    kms.create_alias(AliasName=name, TargetKeyId=key_id)
    assert provider.alias(name) == key_id
    kms.disable_key_rotation(KeyId=key_id)
    kms.update_key_description(KeyId=key_id, Description="all orders")
    policy = kms.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"]
    kms.put_key_policy(KeyId=key_id, PolicyName="default", Policy=policy, BypassPolicyLockoutSafetyCheck=False)
    kms.untag_resource(KeyId=key_id, TagKeys=["stage"])
    kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "team", "TagValue": "blue"}])
    kms.disable_key(KeyId=key_id)
    kms.enable_key(KeyId=key_id)
    tags = {"managed-by": "terraform", "team": "blue"}
    assert provider.read(key_id) == {
        "description": "all orders",
        "enabled": True,
        "rotation": (False, None),
        "tags": tags,
    }
    other = terraform_key(kms, "more orders")
    kms.update_alias(AliasName=name, TargetKeyId=other)
    assert provider.alias(name) == other
    kms.delete_alias(AliasName=name)
    assert provider.alias(name) is None
    for made in (key_id, other):
        kms.schedule_key_deletion(KeyId=made, PendingWindowInDays=7)
        assert kms.describe_key(KeyId=made)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    site.check_policy("terraform", {})


def test_terraform_reaches_no_other_key(site: Site) -> None:
    """A key without the tag is neither read nor changed nor taken over; new keys bear it; aliases have a prefix."""
    kms, admin = site.client("terraform"), site.daemon.client()
    foreign = admin.create_key(Tags=[{"TagKey": "managed-by", "TagValue": "hand"}])["KeyMetadata"]["KeyId"]
    own = terraform_key(kms, "own")
    tag = [{"TagKey": "managed-by", "TagValue": "terraform"}]
    before = admin.list_resource_tags(KeyId=foreign)["Tags"]
    tries = [
        kms.create_key,
        lambda: kms.create_key(Tags=[{"TagKey": "managed-by", "TagValue": "hand"}]),
        lambda: kms.tag_resource(KeyId=foreign, Tags=tag),
        lambda: kms.describe_key(KeyId=foreign),
        lambda: kms.put_key_policy(KeyId=foreign, Policy=admin.get_key_policy(KeyId=foreign)["Policy"]),
        lambda: kms.schedule_key_deletion(KeyId=foreign),
        lambda: kms.create_alias(AliasName="alias/shop-foreign", TargetKeyId=foreign),
        lambda: kms.create_alias(AliasName="alias/other", TargetKeyId=own),
        lambda: kms.update_alias(AliasName="alias/shop", TargetKeyId=own),
        lambda: kms.encrypt(KeyId=own, Plaintext=b"x"),
    ]
    assert [code_of(act) for act in tries] == ["AccessDeniedException"] * len(tries)
    assert admin.list_resource_tags(KeyId=foreign)["Tags"] == before
    assert f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/shop-*" in json.dumps(site.statements("terraform"))
