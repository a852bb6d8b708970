"""How long an authorisation takes, and a long comparison with the naive evaluator.

python -m tests.bench.authz             times
python -m tests.bench.authz 1000000 1   compare that many random questions, from that seed
"""

from __future__ import annotations

import json
import sys
import time
import timeit
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kmsd.authz import evaluate
from kmsd.authz.evaluate import authorize
from kmsd.authz.lockout import default_key_policy
from tests.authz_cases.support import ALICE, CLOSED, MAY_ALL, A, allow, ask, grant, policy, user
from tests.support.decision_kind import sort_of
from tests.support.naive_evaluator import verdict
from tests.support.random_requests import question

if TYPE_CHECKING:
    from kmsd.authz.request import AuthorizationRequest

GIVEN: dict[str, str | tuple[str, ...]] = {
    "aws:SourceIp": "10.1.2.3",
    "aws:CurrentTime": "2026-01-02T03:04:05Z",
    "aws:EpochTime": "1767323045",
    "aws:SecureTransport": "true",
    "aws:UserAgent": "Boto3/1.40 md/Botocore#1.40",
    "aws:RequestedRegion": "us-east-1",
    "kms:KeyOrigin": "AWS_KMS",
    "kms:KeySpec": "SYMMETRIC_DEFAULT",
    "kms:KeyUsage": "ENCRYPT_DECRYPT",
    "kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    "kms:ResourceAliases": ("alias/one", "alias/two"),
}


def long_policy(condition: dict[str, Any] | None) -> str:
    """A key policy of 150 statements and 32 KiB, one of which, in the middle, names Alice."""
    listed = []
    for number in range(150):
        who = ALICE if number == 75 else f"arn:aws:iam::{A}:user/u{number}"
        listed.append(allow(who, ["kms:Encrypt", "kms:Decrypt"], Condition=condition))
    text = policy(*listed)
    assert len(text) <= 32_768  # the size that is spoken of
    return text.ljust(32_768)


def microseconds(query: AuthorizationRequest, repeat: int) -> float:
    """The best of five runs."""
    authorize(query)
    return min(timeit.repeat(lambda: authorize(query), number=repeat, repeat=5)) / repeat * 1e6


def times() -> None:
    """Print how long each sort of question takes."""
    alice = user("alice", MAY_ALL)
    in_context = {"StringEquals": {"kms:EncryptionContext:Department": "IT"}}
    context = {"Department": "IT"}
    subset = tuple(grant(ALICE, subset={"tenant": str(number)}, grant_id=f"{number:064x}") for number in range(1000))
    plain = tuple(grant(ALICE, "DescribeKey", grant_id=f"{number:064x}") for number in range(1000))
    questions = {
        "default key policy and an identity policy": ask(alice, default_key_policy(A, "aws")),
        "32 KiB key policy, 150 statements": ask(user(), long_policy(None)),
        "32 KiB key policy, 150 statements with a condition": ask(user(), long_policy(in_context), context=context),
        "1000 grants, the last fits": ask(user(), CLOSED, grants=subset, context={"tenant": "999"}),
        "1000 grants, none fits": ask(user(), CLOSED, grants=subset, context={"tenant": "x"}),
        "1000 grants, none has the operation": ask(user(), CLOSED, grants=plain),
        "32 KiB key policy with conditions, 1000 grants": ask(
            user(),
            long_policy({"Bool": {"kms:GrantIsForAWSResource": "true"}}),
            grants=subset,
            context={"tenant": "999"},
        ),
    }
    for name, query in questions.items():
        print(f"{microseconds(replace(query, conditions=GIVEN), 20_000):8.2f} µs  {name}")
    text = json.dumps(json.loads(long_policy(in_context)))
    started = time.perf_counter()
    for number in range(20):
        authorize(ask(user(), text + " " * number))
    print(f"{(time.perf_counter() - started) / 20 * 1e6:8.0f} µs  32 KiB key policy seen for the first time")
    query = ask(user(), long_policy(None))
    authorize(query)
    started = time.perf_counter()
    for _ in range(200):
        evaluate.partially_evaluate(query)
    print(f"{(time.perf_counter() - started) / 200 * 1e6:8.0f} µs  32 KiB key policy, caller seen for the first time")


def compare(count: int, seed: int) -> None:
    """Compare `count` random questions; stop at the first on which the evaluators differ."""
    random, seen, started = Random(seed), Counter[str](), time.perf_counter()  # noqa: S311  # questions, not secrets
    for number in range(count):
        query = question(random)
        expected, decision = verdict(query), authorize(query)
        if sort_of(decision) != expected:
            print(f"question {number} of seed {seed}: {expected} expected, {decision}\n{query}")
            sys.exit(1)
        seen[expected] += 1
    print(f"{count} questions of seed {seed} in {time.perf_counter() - started:.0f} s, no difference: {dict(seen)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        compare(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    else:
        times()
