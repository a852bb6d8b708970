"""What a grant may allow follows from the declarations, and is what AWS documents (Developer Guide)."""

from __future__ import annotations

import pytest

from kmsd.authz.grants import WITH_CONTEXT
from kmsd.domain.grant import GRANT_OPERATIONS
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from kmsd.operations.kms.grant_operations import grantable
from kmsd.services import OPERATIONS
from tests.support.domain_keys import a_key

KINDS = [(spec, usage) for spec, usages in ALGORITHMS.items() for usage in usages]
ANY_KEY = {"CreateGrant", "RetireGrant", "DescribeKey"}
BY_USAGE = {
    KeyUsage.ENCRYPT_DECRYPT: {"Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo", "GetPublicKey"},
    KeyUsage.SIGN_VERIFY: {"Sign", "Verify", "GetPublicKey"},
    KeyUsage.GENERATE_VERIFY_MAC: {"GenerateMac", "VerifyMac"},
    KeyUsage.KEY_AGREEMENT: {"DeriveSharedSecret", "GetPublicKey"},
    KeyUsage.ENCAPSULATE_DECAPSULATE: {"Encapsulate", "Decapsulate", "GetPublicKey"},
}


@pytest.mark.parametrize(("spec", "usage"), KINDS)
def test_a_grant_may_allow_what_aws_documents(spec: KeySpec, usage: KeyUsage) -> None:
    """For each kind of key."""
    documented = WITH_CONTEXT if spec is KeySpec.SYMMETRIC_DEFAULT else BY_USAGE[usage]
    assert grantable(a_key(spec=spec, usage=usage)) == ANY_KEY | documented


def test_every_grant_operation_is_for_some_key() -> None:
    """AWS's enumeration has no other."""
    assert {name for kind in KINDS for name in grantable(a_key(spec=kind[0], usage=kind[1]))} == set(GRANT_OPERATIONS)


def test_constraints_apply_to_operations_with_an_encryption_context() -> None:
    """The list of authorisation has the actions whose declared access has an encryption context."""
    accesses = [(access, action) for operation in OPERATIONS for access, action in operation.actions]
    assert {action for access, action in accesses if getattr(access, "context", None)} == {
        f"kms:{name}" for name in WITH_CONTEXT
    }
