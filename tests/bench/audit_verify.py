"""How fast `kmsd audit verify` is, and what a record costs: built, chained and written.

    .venv/bin/python -m tests.bench.audit_verify [records]

Makes a trail of one million real records (about 1.3 GB) with an audit key in SoftHSM, verifies it, removes it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from kmsd import audit
from kmsd.adapters.audit_trail.format import Head, chained
from kmsd.adapters.audit_trail.sink import TrailSink
from kmsd.adapters.audit_trail.verify import verify
from kmsd.audit import Outcome
from kmsd.authz.request import Allowed
from kmsd.domain.arn import ArnScope
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Algorithm, Material, MaterialStatus
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.operations.declaration import Call, ClientInfo, Dependencies, Target
from kmsd.operations.kms import encrypt
from tests.support.audit_trail import make_signer
from tests.support.tokens import softhsm

ACCOUNT, KEY_ID = "111122223333", "1234abcd-12ab-34cd-56ef-1234567890ab"
BATCH = 64


def a_call() -> tuple[Call, encrypt.Request, Outcome]:
    """An Encrypt as the pipeline would record it."""
    place, now = ArnScope("aws", "us-east-1"), datetime.now(UTC)
    material = Material(b"\1" * 16, Algorithm.XAES_256_GCM, MaterialStatus.READY, now)
    arn = place.key(ACCOUNT, KEY_ID)
    key = Key(
        *(KEY_ID, ACCOUNT, arn, "", Origin.AWS_KMS, KeyState.ENABLED, "{}", now),
        current_material=material,
        materials={material.material_id: material},
    )
    caller = Caller(
        PrincipalType.USER, place.user(ACCOUNT, "alice"), ACCOUNT, "AIDA" + "X" * 17, "AKIA" + "X" * 16, "alice"
    )
    agent = "Boto3/1.40 md/Botocore#1.40 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11 md/pyimpl#CPython"
    source = ClientInfo("192.0.2.7", agent, "TLSv1.3", "TLS_AES_256_GCM_SHA384", "kms.example:8480")
    world = Dependencies(place, None, None, None)  # type: ignore[arg-type] # a record asks for the place alone
    targets = [Target(arn, key, decision=Allowed("key-policy:Enable IAM User Permissions"))]
    call = Call(world, caller, source, "11111111-1111-4111-8111-111111111111", now, None, None, targets=targets)  # type: ignore[arg-type] # as above
    request = encrypt.Request(key_id=KEY_ID, plaintext=b"x" * 32, encryption_context={"tenant": "t1"})
    response = encrypt.Response(ciphertext_blob=b"y" * 90, key_id=arn, encryption_algorithm="SYMMETRIC_DEFAULT")
    return call, request, Outcome(response=response)


def cost_of_records() -> None:
    """µs of CPU for building one record, and for chaining it."""
    call, request, outcome = a_call()
    count = 100_000
    begun = time.process_time()
    for _ in range(count):
        line = audit.record_of_call(encrypt.OPERATION, request, call, outcome)
    built = time.process_time() - begun
    begun = time.process_time()
    head, batch = Head(), [line] * BATCH
    for _ in range(count // BATCH):
        _, head = chained(head, batch)
    chaining = time.process_time() - begun
    print(
        f"record of {len(line)} bytes: built in {built / count * 1e6:.2f} µs, "
        f"chained in {chaining / count * 1e6:.2f} µs"
    )


async def write(folder: Path, count: int) -> bytes:
    """The trail, through the sink, with a SoftHSM key; its public key."""
    call, request, outcome = a_call()
    with softhsm(folder / "token") as place:
        async with place.open() as token:
            signer = await make_signer(token)
            sink = await TrailSink.open(folder, "worker-0", signer)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count // BATCH):
                await asyncio.gather(
                    *(
                        sink.append(audit.record_of_call(encrypt.OPERATION, request, call, outcome))
                        for _ in range(BATCH)
                    )
                )
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            await sink.close()
    print(
        f"written {count} in batches of {BATCH}: {count / wall:.0f}/s, "
        f"{cpu / count * 1e6:.1f} µs of CPU each, syncs included"
    )
    return signer.public_key


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    cost_of_records()
    with tempfile.TemporaryDirectory() as folder:
        public_key = asyncio.run(write(Path(folder), count))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.trail"))
        for _ in range(2):
            begun = time.perf_counter()
            report = verify(Path(folder), [public_key])
            took = time.perf_counter() - begun
            print(
                f"verified {report.lines} lines ({size / 1e6:.0f} MB, {report.chains[0].files} files) in {took:.2f} s: "
                f"{report.lines / took:.0f}/s, {len(report.findings)} findings"
            )


if __name__ == "__main__":
    main()
