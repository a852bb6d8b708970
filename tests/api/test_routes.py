"""Methods and paths: an operation is asked by POST at `/`, one of STS by GET as well, and by nothing else."""

from __future__ import annotations

import pytest

from tests.support.harness import Harness
from tests.support.plain_http import send

CREATE = "TrentService.CreateKey"
IDENTITY = "Action=GetCallerIdentity&Version=2011-06-15"


def keys(harness: Harness) -> int:
    """How many keys there are."""
    return len(harness.client().list_keys(Limit=1000)["Keys"])


@pytest.mark.parametrize("presigned", [False, True], ids=["header", "query"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(harness: Harness, method: str, presigned: bool) -> None:  # noqa: FBT001 (a parameter)
    """However well it is signed: 404, the name of an unknown operation, no key, and a record of the refusal."""
    before = keys(harness)
    answer = send(harness.endpoint, harness.admin, CREATE, b"", method=method, presigned=presigned)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/x-amz-json-1.1"
    if method != "HEAD":
        assert answer.json == {"__type": "UnknownOperationException"}
    assert keys(harness) == before
    record = harness.records()[-2]
    assert (record["eventName"], record["errorCode"]) == ("CreateKey", "UnknownOperationException")
    assert record["requestID"] == answer.headers["x-amzn-RequestId"]
    assert f"{method} '/" in record["additionalEventData"]["reason"]


@pytest.mark.parametrize("path", ["/kms", "/kms/", "/healthz", "/readyz", "//", "/.", "/%2F", "/index.html?a=b"])
def test_other_paths_are_refused(harness: Harness, path: str) -> None:
    """A signed POST to where no operation lives makes no key."""
    before = keys(harness)
    answer = send(harness.endpoint, harness.admin, CREATE, path=path)
    assert (answer.status, answer.json["__type"]) in (
        (404, "UnknownOperationException"),
        (400, "InvalidSignatureException"),  # botocore makes some of these paths canonical in another way
    )
    assert keys(harness) == before


def test_post_is_served_with_a_query_too(harness: Harness) -> None:
    """A query string that means nothing is signed along, and a presigned POST holds its signature there."""
    assert send(harness.endpoint, harness.admin, "TrentService.ListKeys", path="/?a=b").status == 200
    assert send(harness.endpoint, harness.admin, "TrentService.ListKeys", b"", presigned=True).status == 200
    assert send(harness.endpoint, harness.admin, "Logs_20140328.DescribeLogGroups", service="logs").status == 200


@pytest.mark.parametrize("presigned", [False, True], ids=["header", "query"])
def test_sts_is_asked_by_get(harness: Harness, presigned: bool) -> None:  # noqa: FBT001 (a parameter)
    """A presigned GetCallerIdentity is how other services have a caller prove who he is."""
    path = f"/?{IDENTITY}"
    answer = send(
        harness.endpoint, harness.admin, None, b"", method="GET", path=path, service="sts", presigned=presigned
    )
    assert answer.status == 200
    assert harness.admin.arn.encode() in answer.body


@pytest.mark.parametrize(("method", "path"), [("PUT", "/"), ("DELETE", "/"), ("GET", "/sts"), ("POST", "/sts")])
def test_sts_is_asked_in_no_other_way(harness: Harness, method: str, path: str) -> None:
    """By the name that the Query protocol has for it."""
    path = f"{path}?{IDENTITY}"
    answer = send(harness.endpoint, harness.admin, None, b"", method=method, path=path, service="sts")
    assert answer.status == 400
    assert b"<Code>InvalidAction</Code>" in answer.body
