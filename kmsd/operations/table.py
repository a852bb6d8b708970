"""All operations: the one list from which dispatch, documentation and tests start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmsd.operations.kms import (
    create_key,
    decrypt,
    describe_key,
    disable_key,
    enable_key,
    encrypt,
    generate_data_key,
    generate_data_key_without_plaintext,
    generate_random,
    list_keys,
    re_encrypt,
)
from kmsd.operations.model import Operation

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    create_key.OPERATION,
    decrypt.OPERATION,
    describe_key.OPERATION,
    disable_key.OPERATION,
    enable_key.OPERATION,
    encrypt.OPERATION,
    generate_data_key.OPERATION,
    generate_data_key_without_plaintext.OPERATION,
    generate_random.OPERATION,
    list_keys.OPERATION,
    re_encrypt.OPERATION,
)

BY_TARGET: Mapping[str, Operation[Any, Any]] = {operation.target: operation for operation in OPERATIONS}
"""By the value of X-Amz-Target."""
