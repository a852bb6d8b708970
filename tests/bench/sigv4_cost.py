"""What reading and verifying a signature costs, in µs: the usual SDK request, and a flood of made-up ones.

python tests/bench/sigv4_cost.py
"""

from __future__ import annotations

import contextlib
import timeit
from collections.abc import Callable
from datetime import UTC, datetime

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from kmsd.errors import ServiceError
from kmsd.wire.sigv4.claim import RawRequest, parse, reject_unknown_key, signing_key, verify

SERVICES = frozenset({"kms", "logs", "sts"})
NOW = datetime.now(UTC)


def signed() -> RawRequest:
    """Encrypt of 32 bytes, as boto3 sends it."""
    body = b'{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"' + b"A" * 44 + b'"}'
    headers = {
        "Host": "127.0.0.1:8480",
        "Accept-Encoding": "identity",
        "X-Amz-Target": "TrentService.Encrypt",
        "Content-Type": "application/x-amz-json-1.1",
        "User-Agent": "Boto3/1.40 md/Botocore#1.40 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11",
        "amz-sdk-invocation-id": "01234567-0123-0123-0123-0123456789ab",
        "amz-sdk-request": "attempt=1",
        "Content-Length": str(len(body)),
    }
    request = AWSRequest("POST", "http://127.0.0.1:8480/", data=body, headers=headers)
    SigV4Auth(Credentials("AKIDEXAMPLE123456", "s" * 40), "kms", "us-east-1").add_auth(request)
    return RawRequest("POST", "/", tuple(request.headers.items()), body)


def best(action: Callable[[], object], number: int = 50_000) -> float:
    """µs of one call, in the quickest of five runs."""
    return min(timeit.repeat(action, number=number, repeat=5)) / number * 1e6


def main() -> None:
    """Print the table."""
    request = signed()
    claim = parse(request, region="us-east-1", services=SERVICES, now=NOW)
    key = signing_key("s" * 40, claim.date, claim.region, claim.service)
    verify(claim, key)
    numbers = iter(range(10**9))

    def read() -> object:
        return parse(request, region="us-east-1", services=SERVICES, now=NOW)

    def read_stranger() -> object:
        headers = tuple(
            (name, value.replace("AKIDEXAMPLE", f"AKID{next(numbers)}") if name == "Authorization" else value)
            for name, value in request.headers
        )
        return parse(RawRequest("POST", "/", headers, request.body), region="us-east-1", services=SERVICES, now=NOW)

    def wrong() -> None:
        with contextlib.suppress(ServiceError):
            verify(claim, b"k" * 32)

    def unknown() -> None:
        with contextlib.suppress(ServiceError):
            reject_unknown_key(claim)

    print(f"parse {best(read):.2f} · verify {best(lambda: verify(claim, key)):.2f}")
    print(f"parse, every access key another (no cache helps) {best(read_stranger, 10_000):.2f}")
    print(f"wrong signature {best(wrong):.2f} · unknown access key {best(unknown):.2f}")
    print(f"derive a signing key {best(lambda: signing_key('s' * 40, '20261122', 'us-east-1', 'kms')):.2f}")


if __name__ == "__main__":
    main()
