"""KeyMetadata: description of a key in CreateKey and DescribeKey."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.key_state import KeyState
from kmsd.operations.kms.shapes import KeyMetadata
from kmsd.operations.kms.symmetric import current_material_id

MEMBER_OF_USAGE = {
    KeyUsage.ENCRYPT_DECRYPT: "encryption_algorithms",
    KeyUsage.SIGN_VERIFY: "signing_algorithms",
    KeyUsage.GENERATE_VERIFY_MAC: "mac_algorithms",
    KeyUsage.KEY_AGREEMENT: "key_agreement_algorithms",
    KeyUsage.ENCAPSULATE_DECAPSULATE: "encapsulation_algorithms",
}
"""The member that lists a key's algorithms. "This value is present only when the KeyUsage … is …" (KeyMetadata)."""


def algorithm_members(key: Key) -> dict[str, Any]:
    """Return the member that lists the key's algorithms, by its attribute's name."""
    return {MEMBER_OF_USAGE[key.usage]: list(key.algorithms)}


def key_metadata(key: Key, now: datetime) -> KeyMetadata:
    """Return the metadata of a key at `now`."""
    state = key.state_at(now)
    expired = key.valid_to is not None and now >= key.valid_to
    return KeyMetadata(
        aws_account_id=key.account,
        key_id=key.key_id,
        arn=key.arn,
        creation_date=key.created_at.timestamp(),
        enabled=state is KeyState.ENABLED,
        description=key.description,
        key_usage=key.usage,
        key_state=state,
        deletion_date=None if key.deletion_at is None else key.deletion_at.timestamp(),
        valid_to=None if key.valid_to is None or expired else key.valid_to.timestamp(),
        origin=key.origin.value,
        expiration_model=None if key.expiration_model is None or expired else key.expiration_model.value,
        key_manager="CUSTOMER",
        customer_master_key_spec=key.spec,
        key_spec=key.spec,
        multi_region=False,
        **algorithm_members(key),
        current_key_material_id=None if expired else current_material_id(key),
    )
