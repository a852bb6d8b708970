"""Resource limits of AWS KMS and CloudWatch Logs ("Quotas"). Configuration may change them."""

from __future__ import annotations

import msgspec


class Quotas(msgspec.Struct, frozen=True):
    """Limits. A request that would exceed one gets LimitExceededException."""

    keys_per_account: int = 100_000
    """Keys of an account, including those pending deletion."""
    aliases_per_key: int = 50
    """Aliases that point to one key."""
    grants_per_key: int = 50_000
    """Grants on one key."""
    policy_bytes: int = 32_768
    """Bytes of a key policy in UTF-8."""
    tags_per_key: int = 50
    """Tags of one key."""
    log_groups_per_account: int = 1_000_000
    """Log groups of an account."""
