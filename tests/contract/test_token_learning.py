"""What one process makes in the token, another finds."""

from __future__ import annotations

import asyncio
import os
import sys

from kmsd.domain.material import Algorithm
from tests.support.tokens import TokenPlace

AES = Algorithm.AES_256_GCM
MAKER = """
import asyncio, sys
from pathlib import Path
from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.material import Algorithm
from tests.support.tokens import TokenPlace

module, folder, objects = map(Path, sys.argv[1:4])
place = TokenPlace("softhsm", module, "kmsd-test", sys.argv[4].encode(), folder, objects)

async def main():
    async with place.open() as token:
        sys.stderr.write("ready\\n")
        for line in sys.stdin:
            await token.generate_key(bytes.fromhex(line.strip()), Algorithm.AES_256_GCM)
            sys.stderr.write("made\\n")

asyncio.run(main())
"""


async def test_keys_of_another_login_are_learnt_together(softhsm_place: TokenPlace) -> None:
    """Fifty keys made by one login cost another a few searches, not fifty; and all of them work there."""
    ids = [os.urandom(16) for _ in range(50)]
    async with softhsm_place.open() as late, softhsm_place.open() as maker:
        for object_id in ids:
            await maker.generate_key(object_id, AES)
        for object_id in ids:
            sealed = await maker.encrypt(object_id, AES, b"text", b"data")
            assert await late.decrypt(object_id, AES, sealed, b"data") == b"text"
        assert late.counters.handle_misses <= 3


async def test_a_key_of_another_process_is_found_by_one_that_made_keys_too(softhsm_place: TokenPlace) -> None:
    """SoftHSM passes over what others changed before it changed something itself: we do not."""
    place = softhsm_place
    paths = (place.module, place.folder, place.objects)
    other = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", MAKER, *map(str, paths), place.pin.decode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert other.stdin is not None
    assert other.stderr is not None
    try:
        assert await other.stderr.readline() == b"ready\n"
        async with place.open() as token:
            for _ in range(5):
                theirs, ours = os.urandom(16), os.urandom(16)
                other.stdin.write(f"{theirs.hex()}\n".encode())
                assert await other.stderr.readline() == b"made\n"
                await token.generate_key(ours, AES)
                assert await token.encrypt(theirs, AES, b"text", b"data")
                assert {theirs, ours} <= {report.object_id for report in await token.list_objects()}
                await token.destroy(theirs)
                assert theirs not in {report.object_id for report in await token.list_objects()}
    finally:
        other.stdin.close()
        await asyncio.wait_for(other.wait(), 30)
