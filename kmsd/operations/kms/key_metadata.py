"""KeyMetadata: description of a key in CreateKey and DescribeKey."""

from __future__ import annotations

from datetime import datetime

from kmsd.domain.key import Key
from kmsd.domain.key_spec import ALGORITHMS
from kmsd.domain.key_state import KeyState
from kmsd.operations.kms.shapes import KeyMetadata


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
        encryption_algorithms=list(ALGORITHMS[key.spec]),
        multi_region=False,
        current_key_material_id=(
            None if key.current_material is None or expired else key.current_material.key_material_id
        ),
    )
