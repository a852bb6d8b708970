"""A load at C speed: wrk replays one signed request over N connections (Debian: apt-get install wrk)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from tests.support.clients import REGION, Credentials

_DONE = """
done = function(summary, latency, requests)
  local failed = summary.errors
  local errors = failed.status + failed.connect + failed.read + failed.write + failed.timeout
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, errors,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


_PART = 1000
"""Requests of one Lua function, which has room for 65,536 constants."""


@dataclass(frozen=True)
class Replay:
    """A request to repeat."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Result:
    """What wrk saw. Times in microseconds."""

    per_second: float
    errors: int
    p50: float
    p99: float


TARGETS = {"kms": "TrentService", "logs": "Logs_20140328"}


def signed(
    endpoint: str, credentials: Credentials, operation: str, members: dict[str, object], *, service: str = "kms"
) -> Replay:
    """A request that is good for fifteen minutes."""
    body = json.dumps(members).encode()
    headers = {"X-Amz-Target": f"{TARGETS[service]}.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", f"{endpoint}/", data=body, headers=headers)
    SigV4Auth(BotoCredentials(credentials.access_key_id, credentials.secret), service, REGION).add_auth(request)
    return Replay(f"{endpoint}/", dict(request.headers), body)


def run(replay: Replay | Sequence[Replay], *, connections: int, seconds: float) -> Result:
    """Load for some seconds, with one request or with several of one server in turn.

    Raises AssertionError if wrk is missing or says nothing.
    """
    wrk = shutil.which("wrk")
    assert wrk is not None, "wrk is missing (Debian: apt-get install wrk)"
    replays = [replay] if isinstance(replay, Replay) else replay
    path = urlsplit(replays[0].url).path or "/"
    lines = ["local all, parts = {}, {}"]
    for number, each in enumerate(replays, 1):
        if number % _PART == 1:
            lines += [*(["end"] if number > 1 else []), "parts[#parts + 1] = function()"]
        headers = ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in each.headers.items())
        lines.append(f'  all[{number}] = wrk.format("POST", {_lua(path)}, {{{headers}}}, {_lua(each.body.decode())})')
    lines += ["end", "function init() for _, part in ipairs(parts) do part() end end"]
    lines += [f"local at, count = 0, {len(replays)}"]
    lines += ["function request() at = at % count + 1; return all[at] end"]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "replay.lua"
        script.write_text("\n".join(lines) + _DONE)
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script)]
        done = subprocess.run(
            [*command, replays[0].url], capture_output=True, text=True, check=True, timeout=seconds + 60
        )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert found is not None, done.stdout
    requests, duration, errors, p50, p99, _ = (int(number) for number in found.groups())
    return Result(requests / (duration / 1e6), errors, p50, p99)


def _lua(text: str) -> str:
    """A Lua string literal; the texts are ASCII without line breaks."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
