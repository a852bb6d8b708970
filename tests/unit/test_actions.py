"""Actions that no service has are told; those that AWS has, or may have for other services, are not."""

from __future__ import annotations

import json

import botocore.session
import pytest

from kmsd.authz.actions import ACTIONS, complaint, complaints
from kmsd.authz.policy_document import parse
from kmsd.domain.policy import PolicyKind
from kmsd.services import OPERATIONS

COVERED_BY_OTHERS = {"kms:ReEncrypt"}
"""Operations that AWS authorises by actions of other names: ReEncryptFrom, ReEncryptTo."""


def test_no_operation_is_unknown() -> None:
    """Neither one of kmsd, by whatever action it is authorised, nor one that AWS documents."""
    for operation in OPERATIONS:
        actions = {getattr(access, "action", None) or operation.name for access in operation.access}
        for action in actions or {operation.name}:
            assert complaint(f"{operation.service.scope}:{action}") is None, action
    session = botocore.session.get_session()
    for service in ACTIONS:
        for name in session.get_service_model(service).operation_names:
            action = f"{service}:{name}"
            assert action in COVERED_BY_OTHERS or complaint(action) is None, action


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("*", None),
        ("kms:*", None),
        ("KMS:encrypt", None),
        ("kms:Generate*", None),
        ("kms:Re?ncryptTo", None),
        ("s3:GetObject", None),
        ("iam:*", None),
        ("kms:Sign", None),
        ("kms:Encrpt", "kms:Encrpt is not an action of AWS; did you mean kms:Encrypt?"),
        ("kms:ReEncrypt", "kms:ReEncrypt is not an action of AWS; did you mean kms:ReEncryptTo?"),
        ("kms:Zzz*", "kms:Zzz* is not an action of AWS"),
        ("kmss:Encrypt", "kmss:Encrypt is an action of no service here; did you mean kms:Encrypt?"),
        ("log:PutLogEvents", "log:PutLogEvents is an action of no service here; did you mean logs:PutLogEvents?"),
    ],
)
def test_complaints(action: str, says: str | None) -> None:
    """Wildcards and letter case count as they do in a decision."""
    assert complaint(action) == says


def test_each_place_is_named() -> None:
    """By the number of its statement; NotAction as well."""
    statement = {"Effect": "Allow", "Resource": "*"}
    both = [{**statement, "Action": ["kms:Encrypt", "kms:Decrpt"]}, {**statement, "NotAction": "sts:X"}]
    found = dict(complaints(parse(json.dumps({"Statement": both}), kind=PolicyKind.IDENTITY)))
    assert set(found) == {"Statement[0]", "Statement[1]"}
    assert found["Statement[0]"].startswith("kms:Decrpt is not")
