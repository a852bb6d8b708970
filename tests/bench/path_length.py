"""How many Python calls of kmsd, in how many files, one warm Encrypt makes.

    python -m tests.bench.path_length [--calls]

With `--calls` each call of one Encrypt is printed in its order. Calls of libraries are not counted.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import kmsd
from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
from tests.bench import load
from tests.support.harness import harness

PACKAGE = str(Path(kmsd.__file__).parent)
WARM, COUNTED = 300, 50


class Trace:
    """Counts calls in the thread in which it is begun."""

    def __init__(self) -> None:
        self.calls: list[str] = []

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


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description="Python calls of one warm Encrypt")
    parser.add_argument("--calls", action="store_true", help="print each call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, harness(Path(folder)) as own:
        # The trace slows calls into the token, which `auto` would take for a slow token.
        policy = own.components.token._calls.inline_policy = InlinePolicy("auto", 1.0)  # type: ignore[attr-defined]
        policy.measure("seal", lambda: None)
        trace, key_id = Trace(), own.client().create_key()["KeyMetadata"]["KeyId"]
        members: dict[str, object] = {"KeyId": key_id, "Plaintext": "eA=="}
        request = load.signed(own.endpoint, own.admin, "Encrypt", members)
        counted = 1 if options.calls else COUNTED
        with socket.create_connection(("127.0.0.1", urlsplit(own.endpoint).port)) as connection:
            ask(connection, request, WARM)
            own.run(trace.begin())
            ask(connection, request, counted)
            own.run(trace.end())
    if options.calls:
        print("\n".join(trace.calls))
    files = {call.partition(":")[0] for call in trace.calls}
    print(f"{len(trace.calls) / counted:.1f} calls in {len(files)} files")


if __name__ == "__main__":
    main()
