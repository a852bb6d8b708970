"""No secret in a log line, a traceback or an error's text: every operation, refused ones and ones that fail within."""

from __future__ import annotations

import io
import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from botocore.exceptions import ClientError
from msgspec.structs import force_setattr

from kmsd.logging_setup import set_up
from tests.support.harness import Harness, harness
from tests.support.secrets_search import Caller, Secrets, files_below


@pytest.fixture(name="log")
def _log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the daemon logs, as it logs in production."""
    found = io.StringIO()
    monkeypatch.setattr(sys, "stderr", found)
    set_up("test")
    try:
        yield found
    finally:
        structlog.reset_defaults()


class Leaky:
    """The real token, whose calls fail when they have worked, with what went in and came out in the error's text."""

    def __init__(self, token: Any) -> None:
        self._token = token

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._token, name)
        if name not in ("encrypt", "decrypt", "random"):
            return real

        async def fail(*arguments: Any, **named: Any) -> Any:
            found = await real(*arguments, **named)
            raise RuntimeError(f"{name} gave {found!r}") from ValueError(f"{arguments!r} {named!r}")

        return fail


def assert_none(known: Secrets, text: bytes, where: str) -> None:
    """No secret in any of its forms."""
    needles = {needle: what for needle, what in known.needles().items() if what.partition(" ")[0] != "marker"}
    assert [(where, what) for needle, what in needles.items() if needle in text] == []


def test_no_secret_is_logged(tmp_path: Path, log: io.StringIO) -> None:
    """Through all operations; then with a token whose errors quote plaintexts, and a traceback that says where."""
    known, answers = Secrets(), []
    with harness(tmp_path, import_token=True) as own:
        known.add("access key secret", own.admin.secret)
        caller = Caller(own, known)
        caller.all()
        answers += fail_within(own, caller, known)
    text = log.getvalue().encode()
    assert text.count(b"\n") > 10
    assert_none(known, text, "log")
    assert_none(known, json.dumps(answers).encode(), "answers")
    failed = [json.loads(line) for line in text.splitlines() if b'"call_failed"' in line]
    assert len(failed) >= 4
    assert all("RuntimeError at " in line["detail"] for line in failed)


def fail_within(own: Harness, caller: Caller, known: Secrets) -> list[Any]:
    """Calls that reach the token, which fails with a telling text; the answers."""
    tokens, answers = own.components.tokens, []
    kms = own.client()
    kms.enable_key(KeyId=caller.key)
    sealed = kms.encrypt(KeyId=caller.key, Plaintext=known.mark("plaintext"))
    blob = known.add("blob", sealed["CiphertextBlob"])
    force_setattr(tokens, "main", Leaky(tokens.main))
    try:
        for name, members in (
            ("encrypt", {"KeyId": caller.key, "Plaintext": known.mark("plaintext")}),
            ("decrypt", {"CiphertextBlob": blob}),
            ("re_encrypt", {"CiphertextBlob": blob, "DestinationKeyId": caller.key}),
            ("generate_data_key", {"KeyId": caller.key, "KeySpec": "AES_256"}),
            ("generate_random", {"NumberOfBytes": 32}),
        ):
            with pytest.raises(ClientError) as refused:
                getattr(kms, name)(**members)
            answer = refused.value.response
            assert answer["Error"]["Code"] == "KMSInternalException"
            assert answer["Error"].get("Message", "") == ""
            answers.append(answer["Error"])
    finally:
        force_setattr(tokens, "main", tokens.main._token)
    return answers


def test_a_traceback_shows_places_and_no_values(log: io.StringIO) -> None:
    """What nobody foresaw is found by its places; its text may quote anything, and its variables hold it."""
    secret = "hunter2-hunter2-hunter2"

    def stumble() -> None:
        kept = secret
        raise LookupError(f"no {kept}")

    try:
        try:
            stumble()
        except LookupError as exc:
            raise RuntimeError(secret) from exc
    except RuntimeError:
        structlog.get_logger().exception("unexpected_error", request_id="x")
    (line,) = log.getvalue().splitlines()
    assert secret not in line
    found = json.loads(line)
    assert (found["event"], found["request_id"]) == ("unexpected_error", "x")
    told = " ".join(found["traceback"])
    assert "RuntimeError" in told
    assert "LookupError" in told
    assert "in stumble" in told
    assert Path(__file__).name in told


def test_log_events_lie_sealed_on_the_disk(tmp_path: Path) -> None:
    """A message, and the result of a query that finds it, are nowhere in the data directory."""
    known = Secrets()
    message = f"MARKED-{secrets.token_hex(24)}"
    known.add("message", message)
    with harness(tmp_path) as own:
        logs = own.client("logs")
        logs.create_log_group(logGroupName="/g")
        logs.create_log_stream(logGroupName="/g", logStreamName="s")
        at = int(own.clock.now().timestamp() * 1000)
        events = [{"timestamp": at, "message": message}]
        logs.put_log_events(logGroupName="/g", logStreamName="s", logEvents=events)
        query = logs.start_query(
            logGroupName="/g", startTime=at // 1000 - 60, endTime=at // 1000 + 60, queryString="fields @message"
        )["queryId"]
        deadline = time.monotonic() + 30
        while (found := logs.get_query_results(queryId=query))["status"] != "Complete":
            assert time.monotonic() < deadline
        assert message in str(found["results"])
        for path in files_below(own.config.data_dir):
            assert_none(known, path.read_bytes(), path.name)
