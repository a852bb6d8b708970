"""What a grant may allow is what the declarations say that a key of this kind can do."""

from __future__ import annotations

import pytest

from kmsd import services
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from kmsd.operations.access import _OfKey
from kmsd.operations.kms.grant_operations import grantable
from kmsd.operations.kms.shapes import GRANT_OPERATIONS
from kmsd.services import OPERATIONS
from tests.support.domain_keys import a_key

KINDS = [(spec, usage) for spec, usages in ALGORITHMS.items() for usage in usages]
ANY_KEY = {"CreateGrant", "RetireGrant", "DescribeKey"}


def declared(spec: KeySpec, usage: KeyUsage) -> set[str]:
    """The actions of operations that need this usage, and a symmetric key where they say so."""
    return {
        access.action or operation.name
        for operation in OPERATIONS
        if operation.service is services.KMS
        for access in operation.access
        if isinstance(access, _OfKey)
        and access.usage is usage
        and (spec is KeySpec.SYMMETRIC_DEFAULT or not access.is_symmetric)
    }


@pytest.mark.parametrize(("spec", "usage"), KINDS)
def test_a_grant_may_allow_what_is_declared(spec: KeySpec, usage: KeyUsage) -> None:
    """And GetPublicKey, which has no usage of its own."""
    public = {"GetPublicKey"} if spec.is_asymmetric else set()
    assert set(grantable(a_key(spec=spec, usage=usage))) == ANY_KEY | declared(spec, usage) | public


def test_every_grant_operation_is_for_some_key() -> None:
    """AWS's enumeration has no other."""
    assert {name for kind in KINDS for name in grantable(a_key(spec=kind[0], usage=kind[1]))} == set(GRANT_OPERATIONS)
