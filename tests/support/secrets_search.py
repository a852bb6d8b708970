"""Secrets that must be nowhere, and the search for them."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from tests.support.clients import ACCOUNT
from tests.support.harness import Harness
from tests.support.key_import import FOREVER, external_key, parameters, wrap
from tests.support.roles import allow, make_role, trust
from tests.support.web_identity import Issuer


class Secrets:
    """Everything that must not be found, and where it comes from."""

    def __init__(self) -> None:
        self.values: dict[bytes, str] = {}

    def add(self, what: str, value: bytes | str) -> bytes:
        """Remember a secret; short ones would be found by chance."""
        data = value.encode() if isinstance(value, str) else value
        assert len(data) >= 16, what
        self.values[data] = what
        return data

    def mark(self, what: str) -> bytes:
        """A new secret of the client's own."""
        return self.add(what, secrets.token_bytes(8).hex().encode() + b"-MARKED-PLAINTEXT-" + secrets.token_bytes(32))

    def needles(self) -> dict[bytes, str]:
        """Each secret in the forms that it could be written in."""
        found = {}
        for value, what in self.values.items():
            # The inner part of base64 does not depend on where it begins, if three alignments are tried.
            for shift in range(3):
                inner = base64.b64encode(value[shift : shift + (len(value) - shift) // 3 * 3])
                found[inner] = f"{what} (base64)"
                found[base64.urlsafe_b64encode(value[shift : shift + (len(value) - shift) // 3 * 3])] = (
                    f"{what} (base64)"
                )
            found[value] = what
            found[value.hex().encode()] = f"{what} (hex)"
            found[json.dumps(value.decode("latin-1"))[1:-1].encode()] = f"{what} (JSON)"
            found[repr(value)[2:-1].encode()] = f"{what} (repr)"
        return found


class Caller:
    """Calls every operation of the table, and hands each secret of it to `Secrets`."""

    def __init__(self, harness: Harness, known: Secrets, issuer: Issuer | None = None) -> None:
        """`issuer` of web tokens that the daemon trusts; without one, AssumeRoleWithWebIdentity is left out."""
        self.harness = harness
        self.issuer = issuer
        self.known = known
        self.kms = harness.client()
        self.sts = harness.client("sts")
        self.key = self.kms.create_key()["KeyMetadata"]["KeyId"]
        self.external = external_key(self.kms)
        self.alias = f"alias/{secrets.token_hex(4)}"
        self.called: set[str] = set()

    def all(self) -> None:
        """Every operation, in an order in which they work."""
        steps: list[Callable[[], None]] = [
            *(self.sealing, self.signing, self.agreeing),
            *(self.importing, self.granting, self.keeping, self.sessions),
        ]
        for step in steps:
            step()

    def call(self, client: Any, name: str, **members: Any) -> dict[str, Any]:
        """One call by its method's name; before it, the same without permission."""
        operation = "".join(part.capitalize() for part in name.split("_"))
        self.called.add(operation)
        stranger = self.harness.user()
        self.known.add("access key secret", stranger.secret)
        service = "sts" if client is self.sts else "kms"
        with suppress(ClientError):
            getattr(self.harness.client(service, stranger), name)(**members)
        answer: dict[str, Any] = getattr(client, name)(**members)
        return answer

    def sealing(self) -> None:
        """Plaintexts, blobs, data keys, random bytes; and texts that do not open."""
        context = {"tenant": "shown"}
        text = self.known.mark("plaintext")
        sealed = self.call(self.kms, "encrypt", KeyId=self.key, Plaintext=text, EncryptionContext=context)
        blob = self.known.add("blob", sealed["CiphertextBlob"])
        self.call(self.kms, "decrypt", CiphertextBlob=blob, EncryptionContext=context)
        again = self.call(
            self.kms, "re_encrypt", CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=self.key
        )
        self.known.add("blob", again["CiphertextBlob"])
        made = self.call(self.kms, "generate_data_key", KeyId=self.key, KeySpec="AES_256")
        self.known.add("data key", made["Plaintext"])
        self.known.add("blob", made["CiphertextBlob"])
        made = self.call(self.kms, "generate_data_key_without_plaintext", KeyId=self.key, NumberOfBytes=64)
        self.known.add("blob", made["CiphertextBlob"])
        self.known.add("random", self.call(self.kms, "generate_random", NumberOfBytes=64)["Plaintext"])
        long = self.known.mark("long plaintext") * 100
        for members in (
            {"KeyId": self.key, "Plaintext": long},
            {"KeyId": "0" * 3000, "Plaintext": text},
            {"KeyId": self.key, "Plaintext": text, "GrantTokens": [self.known.mark("no token").hex()]},
        ):
            with suppress(ClientError):
                self.kms.encrypt(**members)
        with suppress(ClientError):
            self.kms.decrypt(CiphertextBlob=self.known.mark("no blob"))

    def signing(self) -> None:
        """Messages, signatures and MACs."""
        text = self.known.mark("message")
        signed = {"KeyId": self.new("ECC_NIST_P256", "SIGN_VERIFY"), "SigningAlgorithm": "ECDSA_SHA_256"}
        signature = self.call(self.kms, "sign", **signed, Message=text)["Signature"]
        self.call(self.kms, "verify", **signed, Message=text, Signature=self.known.add("signature", signature))
        self.call(self.kms, "get_public_key", KeyId=signed["KeyId"])
        authentic = {"KeyId": self.new("HMAC_256", "GENERATE_VERIFY_MAC"), "MacAlgorithm": "HMAC_SHA_256"}
        mac = self.call(self.kms, "generate_mac", **authentic, Message=text)["Mac"]
        self.call(self.kms, "verify_mac", **authentic, Message=text, Mac=self.known.add("mac", mac))
        with suppress(ClientError):
            self.kms.verify_mac(**authentic, Message=text, Mac=self.known.mark("no mac"))
        self.call(self.kms, "get_key_last_usage", KeyId=signed["KeyId"])

    def agreeing(self) -> None:
        """Shared secrets and private keys of data key pairs."""
        key = {"KeyId": self.new("ECC_NIST_P256", "KEY_AGREEMENT"), "KeyAgreementAlgorithm": "ECDH"}
        peer = self.kms.get_public_key(KeyId=key["KeyId"])["PublicKey"]
        secret = self.call(self.kms, "derive_shared_secret", **key, PublicKey=peer)["SharedSecret"]
        self.known.add("shared secret", secret)
        for name in ("generate_data_key_pair", "generate_data_key_pair_without_plaintext"):
            made = self.call(self.kms, name, KeyId=self.key, KeyPairSpec="ECC_NIST_P256")
            self.known.add("blob", made["PrivateKeyCiphertextBlob"])
            if "PrivateKeyPlaintext" in made:
                self.known.add("private key", made["PrivateKeyPlaintext"])
        kem = {"KeyId": self.key, "EncapsulationAlgorithm": "ML_KEM"}
        with suppress(ClientError):  # no key of this token can encapsulate
            self.call(self.kms, "encapsulate", **kem)
        with suppress(ClientError):
            self.call(self.kms, "decapsulate", **kem, SharedSecretCiphertextBlob=self.known.mark("encapsulated"))

    def new(self, spec: str, usage: str) -> str:
        """A new key of another kind."""
        return str(self.kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])

    def importing(self) -> None:
        """Materials, wrapped and bare, and import tokens."""
        material = self.known.add("material", os.urandom(32))
        given = parameters(self.kms, self.external)
        self.called |= {"GetParametersForImport"}
        token = self.known.add("import token", given.answer["ImportToken"])
        wrapped = self.known.add("wrapped material", wrap(material, given.algorithm, given.public_key))
        members = {"KeyId": self.external, "ImportToken": token, "EncryptedKeyMaterial": wrapped, **FOREVER}
        with suppress(ClientError):
            self.kms.import_key_material(**{**members, "EncryptedKeyMaterial": self.known.mark("no material")})
        self.call(self.kms, "import_key_material", **members)
        self.call(self.kms, "delete_imported_key_material", KeyId=self.external)

    def granting(self) -> None:
        """Grant tokens."""
        me, operations = self.harness.admin.arn, ["Encrypt", "DescribeKey"]
        for name in ("revoke_grant", "retire_grant"):
            made = self.call(
                self.kms,
                "create_grant",
                KeyId=self.key,
                GranteePrincipal=me,
                RetiringPrincipal=me,
                Operations=operations,
            )
            token = self.known.add("grant token", made["GrantToken"]).decode()
            self.kms.describe_key(KeyId=self.key, GrantTokens=[token])
            self.call(self.kms, "list_grants", KeyId=self.key)
            self.call(self.kms, "list_retirable_grants", RetiringPrincipal=me)
            if name == "revoke_grant":
                self.call(self.kms, name, KeyId=self.key, GrantId=made["GrantId"])
            else:
                self.call(self.kms, name, GrantToken=token)

    def keeping(self) -> None:
        """Everything else that is done to keys and aliases."""
        key, kms = self.key, self.kms
        self.called.add("CreateKey")
        policy = self.call(kms, "get_key_policy", KeyId=key)["Policy"]
        for name, members in (
            ("put_key_policy", {"KeyId": key, "Policy": policy}),
            ("list_key_policies", {"KeyId": key}),
            ("describe_key", {"KeyId": key}),
            ("update_key_description", {"KeyId": key, "Description": "shown"}),
            ("tag_resource", {"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]}),
            ("list_resource_tags", {"KeyId": key}),
            ("untag_resource", {"KeyId": key, "TagKeys": ["a"]}),
            ("create_alias", {"AliasName": self.alias, "TargetKeyId": key}),
            ("update_alias", {"AliasName": self.alias, "TargetKeyId": self.external}),
            ("list_aliases", {}),
            ("delete_alias", {"AliasName": self.alias}),
            ("enable_key_rotation", {"KeyId": key}),
            ("get_key_rotation_status", {"KeyId": key}),
            ("rotate_key_on_demand", {"KeyId": key}),
            ("list_key_rotations", {"KeyId": key}),
            ("disable_key_rotation", {"KeyId": key}),
            ("disable_key", {"KeyId": key}),
            ("enable_key", {"KeyId": key}),
            ("list_keys", {"Limit": 1}),
            ("schedule_key_deletion", {"KeyId": key}),
            ("cancel_key_deletion", {"KeyId": key}),
        ):
            answer = self.call(kms, name, **members)
            if "NextMarker" in answer and name == "list_keys":
                marker = self.known.add("marker", answer["NextMarker"]).decode()
                kms.list_keys(Limit=1, Marker=marker)

    def sessions(self) -> None:
        """Session tokens and their secrets."""
        role = make_role(self.harness, f"r{secrets.token_hex(4)}", trust(self.harness.admin.arn), allow("kms:*"))
        self.call(self.sts, "get_caller_identity")
        for answer in (
            self.call(self.sts, "assume_role", RoleArn=role, RoleSessionName="session"),
            self.call(self.sts, "get_session_token"),
        ):
            given = answer["Credentials"]
            self.known.add("session secret", given["SecretAccessKey"])
            self.known.add("session token", given["SessionToken"])
        if self.issuer is not None:
            self.web_session(self.issuer)

    def web_session(self, issuer: Issuer) -> None:
        """A session for a web token, which is a secret while it lasts."""
        statement = {
            "Effect": "Allow",
            "Principal": {"Federated": issuer.arn(ACCOUNT)},
            "Action": "sts:AssumeRoleWithWebIdentity",
        }
        trusting = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        role = make_role(self.harness, f"w{secrets.token_hex(4)}", trusting, allow("kms:*"))
        token = issuer.token()
        self.known.add("web token", token)
        members = {"RoleArn": role, "RoleSessionName": "session", "WebIdentityToken": token}
        given = self.call(self.sts, "assume_role_with_web_identity", **members)["Credentials"]
        self.known.add("session secret", given["SecretAccessKey"])
        self.known.add("session token", given["SessionToken"])


def files_below(folder: Path) -> list[Path]:
    """All files, the database's journal among them."""
    return [path for path in folder.rglob("*") if path.is_file()]
