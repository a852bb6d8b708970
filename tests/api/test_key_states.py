"""The key-state table of the specification, every cell over the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.harness import Harness
from tests.support.key_import import parameters

ENABLED, DISABLED, PENDING_DELETION, PENDING_IMPORT = "Enabled", "Disabled", "PendingDeletion", "PendingImport"
D = ("DisabledException", "is disabled.")
P = ("KMSInvalidStateException", "is pending deletion.")
N = ("KMSInvalidStateException", "is not pending deletion.")
I = ("KMSInvalidStateException", "is pending import.")  # noqa: E741 (the table's letter)
U = ("UnsupportedOperationException", "which is not valid for this operation.")
Y = ("", "")
ME = "arn:aws:iam::000000000000:user/admin"

TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "cancel_key_deletion": (N, N, Y, N),
    "create_alias": (Y, Y, P, Y),
    "create_grant": (Y, D, P, I),
    "encrypt": (Y, D, P, I),
    "decrypt": (Y, D, P, I),
    "re_encrypt": (Y, D, P, I),
    "generate_data_key": (Y, D, P, I),
    "generate_data_key_without_plaintext": (Y, D, P, I),
    "delete_alias": (Y, Y, Y, Y),
    "describe_key": (Y, Y, Y, Y),
    "get_key_policy": (Y, Y, Y, Y),
    "put_key_policy": (Y, Y, Y, Y),
    "list_aliases": (Y, Y, Y, Y),
    "list_grants": (Y, Y, Y, Y),
    "list_key_policies": (Y, Y, Y, Y),
    "retire_grant": (Y, Y, Y, Y),
    "revoke_grant": (Y, Y, Y, Y),
    "disable_key": (Y, Y, P, I),
    "enable_key": (Y, Y, P, I),
    "enable_key_rotation": (Y, D, P, U),
    "disable_key_rotation": (Y, D, P, U),
    "get_key_rotation_status": (Y, Y, Y, U),
    "list_key_rotations": (Y, Y, Y, Y),
    "rotate_key_on_demand": (Y, D, P, I),
    "schedule_key_deletion": (Y, Y, P, Y),
    "update_key_description": (Y, Y, P, Y),
    "update_alias": (Y, Y, P, Y),
    "get_parameters_for_import": (Y, Y, P, Y),
    "import_key_material": (Y, Y, P, Y),
    "delete_imported_key_material": (Y, Y, Y, Y),
}
IMPORTS = {"get_parameters_for_import", "import_key_material", "delete_imported_key_material"}
"""Of keys whose material was imported; of others they are refused in every state."""
WRAPPING = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
STATES = (ENABLED, DISABLED, PENDING_DELETION, PENDING_IMPORT)


class Cell:
    """A key with everything that an operation may need, brought into a state."""

    def __init__(self, kms: Any, state: str, operation: str) -> None:
        self.kms = kms
        origin = "EXTERNAL" if state == PENDING_IMPORT or operation in IMPORTS else "AWS_KMS"
        self.key_id = kms.create_key(Origin=origin)["KeyMetadata"]["KeyId"]
        self.other = kms.create_key()["KeyMetadata"]["KeyId"]
        self.alias = f"alias/{self.key_id}"
        self.blob = b""
        self.grant = {"GrantId": "0" * 64, "GrantToken": ""}
        if operation in ("delete_alias", "list_aliases"):
            kms.create_alias(AliasName=self.alias, TargetKeyId=self.key_id)
        if operation == "update_alias":
            kms.create_alias(AliasName=self.alias, TargetKeyId=self.other)
        if operation in IMPORTS:
            self.wrapped = parameters(kms, self.key_id).members(b"material of thirty-two bytes, ok")
            if state != PENDING_IMPORT:
                kms.import_key_material(**self.wrapped)
        if origin == "AWS_KMS":
            self.blob = kms.encrypt(KeyId=self.key_id, Plaintext=b"x")["CiphertextBlob"]
            self.grant = kms.create_grant(
                KeyId=self.key_id, GranteePrincipal=ME, RetiringPrincipal=ME, Operations=["Decrypt"]
            )
        else:
            # A blob's header alone names the key; whether it opens is not asked in this state.
            other = kms.encrypt(KeyId=self.other, Plaintext=b"x")["CiphertextBlob"]
            self.blob = other[:2] + bytes.fromhex(self.key_id.replace("-", "")) + other[18:]
        if state == DISABLED:
            kms.disable_key(KeyId=self.key_id)
        if state == PENDING_DELETION:
            kms.schedule_key_deletion(KeyId=self.key_id, PendingWindowInDays=7)

    def act(self, operation: str) -> Any:
        """Do the operation to the key."""
        kms, key = self.kms, {"KeyId": self.key_id}
        acts: dict[str, Callable[[], Any]] = {
            "create_alias": lambda: kms.create_alias(AliasName=self.alias, TargetKeyId=self.key_id),
            "create_grant": lambda: kms.create_grant(**key, GranteePrincipal=ME, Operations=["Encrypt"]),
            "encrypt": lambda: kms.encrypt(**key, Plaintext=b"x"),
            "decrypt": lambda: kms.decrypt(CiphertextBlob=self.blob),
            "re_encrypt": lambda: kms.re_encrypt(CiphertextBlob=self.blob, DestinationKeyId=self.other),
            "generate_data_key": lambda: kms.generate_data_key(**key, KeySpec="AES_256"),
            "generate_data_key_without_plaintext": lambda: kms.generate_data_key_without_plaintext(
                **key, KeySpec="AES_256"
            ),
            "delete_alias": lambda: kms.delete_alias(AliasName=self.alias),
            "put_key_policy": lambda: kms.put_key_policy(**key, Policy=kms.get_key_policy(**key)["Policy"]),
            "list_aliases": lambda: kms.list_aliases(**key),
            "retire_grant": lambda: kms.retire_grant(GrantToken=self.grant["GrantToken"]),
            "revoke_grant": lambda: kms.revoke_grant(**key, GrantId=self.grant["GrantId"]),
            "update_key_description": lambda: kms.update_key_description(**key, Description="d"),
            "update_alias": lambda: kms.update_alias(AliasName=self.alias, TargetKeyId=self.key_id),
            "get_parameters_for_import": lambda: kms.get_parameters_for_import(**key, **WRAPPING),
            "import_key_material": lambda: kms.import_key_material(**self.wrapped),
        }
        return acts.get(operation, lambda: getattr(kms, operation)(**key))()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", TABLE)
def test_cell(harness: Harness, operation: str, state: str) -> None:
    """The operation works in this state, or is refused with AWS's error and sentence; a refusal changes nothing."""
    if state == PENDING_IMPORT and operation in ("retire_grant", "revoke_grant"):
        pytest.skip("a key that awaits import can have no grant before its first import")
    kms = harness.client()
    cell = Cell(kms, state, operation)
    code, sentence = TABLE[operation][STATES.index(state)]
    if not code:
        cell.act(operation)
        return
    before = kms.describe_key(KeyId=cell.key_id)["KeyMetadata"]
    with pytest.raises(ClientError) as refused:
        cell.act(operation)
    error = refused.value.response["Error"]
    assert error["Code"] == code
    assert error["Message"].endswith(sentence)
    assert cell.key_id in error["Message"]
    assert kms.describe_key(KeyId=cell.key_id)["KeyMetadata"] == before


@pytest.mark.parametrize("state", [ENABLED, DISABLED, PENDING_DELETION])
@pytest.mark.parametrize("operation", sorted(IMPORTS))
def test_generated_keys_take_no_imports(harness: Harness, operation: str, state: str) -> None:
    """The origin is asked before the state: UnsupportedOperationException in each."""
    kms = harness.client()
    cell = Cell(kms, state, "describe_key")
    cell.wrapped = {**Cell(kms, PENDING_IMPORT, operation).wrapped, "KeyId": cell.key_id}
    with pytest.raises(ClientError) as refused:
        cell.act(operation)
    error = refused.value.response["Error"]
    assert error["Code"] == "UnsupportedOperationException"
    assert error["Message"].endswith("origin is AWS_KMS which is not valid for this operation.")


def test_re_encrypt_asks_for_both_keys_states(harness: Harness) -> None:
    """The destination's state counts as much as the source's."""
    kms = harness.client()
    source, destination = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    blob = kms.encrypt(KeyId=source, Plaintext=b"x")["CiphertextBlob"]
    kms.disable_key(KeyId=destination)
    with pytest.raises(ClientError, match="DisabledException") as refused:
        kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=destination)
    assert destination in refused.value.response["Error"]["Message"]
