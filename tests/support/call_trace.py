"""The Python calls of kmsd that one request makes, from the parser to the durable record and the written answer."""

from __future__ import annotations

import http.client
import socket
import sys
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import kmsd
from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
from tests.bench import load
from tests.support.harness import Harness

PACKAGE = str(Path(kmsd.__file__).parent)
WARM, COUNTED = 300, 50


class Trace:
    """Counts calls in the thread in which it is begun."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """`FILE:LINE NAME` of each, in their order. A coroutine counts once more each time it is resumed."""

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            place = frame.f_code.co_filename.removeprefix(PACKAGE + "/")
            self.calls.append(f"{place}:{frame.f_code.co_firstlineno} {frame.f_code.co_qualname}")

    async def begin(self) -> None:
        """Count from now on."""
        sys.setprofile(self._called)

    async def end(self) -> None:
        """Count no more."""
        sys.setprofile(None)


def ask(connection: socket.socket, request: bytes, times: int) -> None:
    """Send the request in one piece, as most SDKs do, and read the response; several times."""
    for _ in range(times):
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 200, response.read()
        response.read()


def calls_of_encrypt(own: Harness) -> list[str]:
    """The calls of one warm Encrypt: of several, those of the one with the fewest, which no timer fell into."""
    # The trace slows calls into the token, which `auto` would take for a slow token.
    policy = own.components.token._calls.inline_policy = InlinePolicy("auto", 1.0)  # type: ignore[attr-defined]
    policy.measure("seal", lambda: None)
    key_id = own.client().create_key()["KeyMetadata"]["KeyId"]
    request = load.signed(own.endpoint, own.admin, "Encrypt", {"KeyId": key_id, "Plaintext": "eA=="})
    found: list[list[str]] = []
    with socket.create_connection(("127.0.0.1", urlsplit(own.endpoint).port)) as connection:
        ask(connection, request, WARM)
        for _ in range(COUNTED):
            trace = Trace()
            own.run(trace.begin())
            ask(connection, request, 1)
            own.run(trace.end())
            found.append(trace.calls)
    return min(found, key=len)


def files_of(calls: list[str]) -> set[str]:
    """The files of some calls."""
    return {call.partition(":")[0] for call in calls}
