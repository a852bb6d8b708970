"""What one process makes in the token, another finds without searching for each."""

from __future__ import annotations

import os

from kmsd.domain.material import Algorithm
from tests.tokens import TokenPlace


async def test_keys_of_another_process_are_learnt_together(softhsm_place: TokenPlace) -> None:
    """Fifty keys made by one login cost another a few searches, not fifty; and all of them work there."""
    ids = [os.urandom(16) for _ in range(50)]
    async with softhsm_place.open() as late, softhsm_place.open() as maker:
        for object_id in ids:
            await maker.generate_key(object_id, Algorithm.AES_256_GCM)
        for object_id in ids:
            sealed = await maker.encrypt(object_id, Algorithm.AES_256_GCM, b"text", b"data")
            assert await late.decrypt(object_id, Algorithm.AES_256_GCM, sealed, b"data") == b"text"
        assert late.counters.handle_misses <= 3
