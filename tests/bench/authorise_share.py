"""What authorising costs of a whole Encrypt: a 32 KiB key policy, 1000 grants on the key, conditions to evaluate.

    .venv/bin/python -m tests.bench.authorise_share

Both are timed in one process: the decision alone, on the very query of the request, and the request from its first
byte to its answer, the durable audit record included.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import AuthorizationRequest
from kmsd.custody.credentials import CredentialStore
from kmsd.operations import admission
from kmsd.operations.declaration import Call, ClientInfo
from kmsd.operations.kms import encrypt
from kmsd.wire.sigv4.claim import signing_key
from tests.bench import wrk
from tests.support.clients import ACCOUNT
from tests.support.harness import Harness, harness

STATEMENTS = 150
GRANTS = 1000
ROUNDS = 5
COUNT = 2000


def big_policy(user: str) -> str:
    """32 KiB: statements for others, and one under a condition that lets `user` encrypt."""
    root = {"Sid": "root", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
    statements: list[dict[str, Any]] = [{**root, "Action": "kms:*", "Resource": "*"}]
    for number in range(STATEMENTS):
        other = f"arn:aws:iam::{ACCOUNT}:user/other{number:03}"
        condition = {"StringEquals": {"kms:EncryptionContext:tenant": f"t{number}"}}
        statement = {"Sid": f"s{number}", "Effect": "Allow", "Principal": {"AWS": other}, "Action": "kms:Encrypt"}
        statements.append({**statement, "Resource": "*", "Condition": condition})
    own = {"Sid": "own", "Effect": "Allow", "Principal": {"AWS": user}, "Action": "kms:Encrypt", "Resource": "*"}
    statements.append({**own, "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": "mine"}}})
    text = json.dumps({"Version": "2012-10-17", "Id": "", "Statement": statements})
    return text.replace('"Id": ""', f'"Id": "{"x" * (32_700 - len(text))}"')


async def query_of(place: Harness, user: Any, key_id: str) -> AuthorizationRequest:
    """What the pipeline asks for this request."""
    reader = await place.components.store.read()
    access_key = await reader.access_key(user.access_key_id)
    assert access_key is not None
    caller = CredentialStore(place.components.token, place.components.pipeline.dependencies.arns, signing_key)._caller(
        access_key
    )
    source = ClientInfo("127.0.0.1", "bench", None)
    call = Call(
        place.components.pipeline.dependencies, caller, source, "", place.clock.now(), reader, place.components.tokens
    )
    request = encrypt.Request(key_id=key_id, plaintext=b"x" * 32, encryption_context={"tenant": "mine"})
    await admission.admit(encrypt.OPERATION, request, call)
    query = call.targets[0].authorization_request
    assert query is not None
    return query


def decide(query: AuthorizationRequest) -> float:
    """Microseconds of one decision."""
    began = time.perf_counter()
    for _ in range(COUNT):
        authorize(query)
    return (time.perf_counter() - began) / COUNT * 1e6


def main() -> None:
    """Set up, measure in turn, print."""
    with tempfile.TemporaryDirectory() as folder, harness(Path(folder)) as place:
        user, admin = place.user(), place.client()
        key_id = admin.create_key(Policy=big_policy(user.arn))["KeyMetadata"]["KeyId"]
        for number in range(GRANTS):
            subset = {"EncryptionContextSubset": {"tenant": f"g{number}"}}
            admin.create_grant(KeyId=key_id, GranteePrincipal=user.arn, Operations=["Decrypt"], Constraints=subset)
        context = {"tenant": "mine"}
        members = {
            "KeyId": key_id,
            "Plaintext": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=",
            "EncryptionContext": context,
        }
        replay = wrk.signed(place.endpoint, user, "Encrypt", members)
        query = place.run(query_of(place, user, key_id))
        decisions, requests = [], []
        for _ in range(ROUNDS):
            decisions.append(decide(query))
            result = wrk.run(replay, connections=1, seconds=2)
            assert result.errors == 0
            requests.append(1e6 / result.per_second)
        decision, request = statistics.median(decisions), statistics.median(requests)
        report = {"policy bytes": len(query.resource_policy or ""), "grants of the caller": len(query.grants)}
        print(
            json.dumps(
                {**report, "decision us": decision, "request us": request, "share": decision / request}, indent=2
            )
        )


if __name__ == "__main__":
    main()
