"""All operations: the one list from which dispatch, documentation and tests start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmsd.operations.kms import (
    cancel_key_deletion,
    create_alias,
    create_grant,
    create_key,
    decrypt,
    delete_alias,
    delete_imported_key_material,
    describe_key,
    disable_key,
    disable_key_rotation,
    enable_key,
    enable_key_rotation,
    encrypt,
    generate_data_key,
    generate_data_key_without_plaintext,
    generate_random,
    get_key_policy,
    get_key_rotation_status,
    get_parameters_for_import,
    import_key_material,
    list_aliases,
    list_grants,
    list_key_policies,
    list_key_rotations,
    list_keys,
    list_resource_tags,
    list_retirable_grants,
    put_key_policy,
    re_encrypt,
    retire_grant,
    revoke_grant,
    rotate_key_on_demand,
    schedule_key_deletion,
    tag_resource,
    untag_resource,
    update_alias,
    update_key_description,
)
from kmsd.operations.model import Operation, Service
from kmsd.operations.sts import assume_role, get_caller_identity, get_session_token

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    cancel_key_deletion.OPERATION,
    create_alias.OPERATION,
    create_grant.OPERATION,
    create_key.OPERATION,
    decrypt.OPERATION,
    delete_alias.OPERATION,
    delete_imported_key_material.OPERATION,
    describe_key.OPERATION,
    disable_key.OPERATION,
    disable_key_rotation.OPERATION,
    enable_key.OPERATION,
    enable_key_rotation.OPERATION,
    encrypt.OPERATION,
    generate_data_key.OPERATION,
    generate_data_key_without_plaintext.OPERATION,
    generate_random.OPERATION,
    get_key_policy.OPERATION,
    get_key_rotation_status.OPERATION,
    get_parameters_for_import.OPERATION,
    import_key_material.OPERATION,
    list_aliases.OPERATION,
    list_grants.OPERATION,
    list_key_policies.OPERATION,
    list_key_rotations.OPERATION,
    list_keys.OPERATION,
    list_resource_tags.OPERATION,
    list_retirable_grants.OPERATION,
    put_key_policy.OPERATION,
    re_encrypt.OPERATION,
    retire_grant.OPERATION,
    revoke_grant.OPERATION,
    rotate_key_on_demand.OPERATION,
    schedule_key_deletion.OPERATION,
    tag_resource.OPERATION,
    untag_resource.OPERATION,
    update_alias.OPERATION,
    update_key_description.OPERATION,
    assume_role.OPERATION,
    get_caller_identity.OPERATION,
    get_session_token.OPERATION,
)

BY_TARGET: Mapping[str, Operation[Any, Any]] = {
    operation.target: operation for operation in OPERATIONS if operation.service is not Service.STS
}
"""By the value of X-Amz-Target."""
BY_ACTION: Mapping[str, Operation[Any, Any]] = {
    operation.name: operation for operation in OPERATIONS if operation.service is Service.STS
}
"""By the parameter Action of the Query protocol."""
