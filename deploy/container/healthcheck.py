"""Ask the daemon in this container for /healthz: healthcheck.py [CONFIGURATION]. Exit status 0: it answers 200."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import tomllib
from pathlib import Path

CONFIGURATION = "/etc/kmsd/kmsd.toml"
SECONDS = 4
EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)
"""Loopback for hosts that no client can connect to."""


def opened(address: str) -> socket.socket:
    """Return a connection to `unix:PATH` or HOST:PORT. Raises OSError."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return socket.create_connection((EVERY_ADDRESS.get(host, host), int(port)), SECONDS)


def status(listen: dict[str, object]) -> int:
    """Return the status of the answer; 200 without a question, if only clients with a certificate may ask."""
    connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
    connection.sock = opened(str(listen.get("address", "127.0.0.1:8480")))
    if "tls_client_ca" in listen:
        # The daemon accepts connections, which is all that a stranger can learn.
        return http.HTTPStatus.OK
    if "tls_certificate" in listen:
        # This container's own port: the certificate is for the names that clients know.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection.sock = context.wrap_socket(connection.sock)
    connection.request("GET", "/healthz")
    return connection.getresponse().status


def main() -> int:
    """Run the check; the exit status."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else CONFIGURATION)
    try:
        found = status(tomllib.loads(path.read_text()).get("listen", {}))
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return int(found != http.HTTPStatus.OK)


if __name__ == "__main__":
    raise SystemExit(main())
