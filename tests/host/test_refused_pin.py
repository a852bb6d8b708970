"""A wrong PIN on a booted host: the token sees it once, whatever is done, and the right one ends the matter."""

from __future__ import annotations

import json
import socket
import time

from tests.host.service import PIN, PIN_FILE, PORT, WRONG_PIN, Service
from tests.host.site import write
from tests.polling import until
from tests.shim import Function

COMMANDS = (
    *("init", "check", "check --no-token", "migrate"),
    *("user list", "user create billing", "user delete billing", "access-key list admin", "access-key create admin"),
    *("role list", "role create auditor --trust -", "role delete auditor"),
    *("key list", "key show alias/first", "key disable alias/first", "key enable alias/first"),
    "key policy reset alias/first",
    "explain --principal arn:aws:iam::000000000000:user/admin --action kms:Encrypt --key alias/first",
    *("audit verify", "audit show --since 1h", "audit public-key", "audit checkpoints"),
    *("jobs run rotation", "jobs run expiry", "jobs run deletion", "jobs run retention", "jobs run reconcile"),
    *("backup /var/lib/kmsd", "restore --check /var/lib/kmsd/none.backup", "reload", "--version"),
)
"""Every command but `serve`, which the unit runs, and `pin retry`, which is the operator's word."""


def connect(service: Service, connections: int) -> None:
    """So many clients that want an answer and get whatever there is."""
    with service.host.network():
        for _ in range(connections):
            try:
                with socket.create_connection(("127.0.0.1", PORT), timeout=0.2) as client:
                    client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            except OSError:
                pass


def settled(service: Service) -> None:
    """Wait until the service has ended and the socket, which would start it again, too."""
    service.until_state("kmsd.service", "failed", "inactive")
    service.until_state("kmsd.socket", "failed", "inactive")


def test_a_wrong_pin_is_offered_once(service: Service) -> None:
    """100 connections, 3 reboots, a reload and every command: one C_Login. The right PIN and one start: service."""
    host = service.host
    write(host, PIN_FILE, WRONG_PIN, 0o600)
    host.boot()
    connect(service, 100)
    settled(service)
    assert service.shim.calls(Function.LOGIN) == 1
    assert host.unit("kmsd.service", "ExecMainStatus") == "77"

    for _ in range(3):
        host.reboot()
        connect(service, 10)
        settled(service)
        assert service.shim.calls(Function.LOGIN) == 1
    assert host.run("systemctl reload kmsd", check=False).returncode != 0
    connect(service, 100)
    statuses = {command: host.run(f"kmsd {command}", check=False).returncode for command in COMMANDS}
    assert service.shim.calls(Function.LOGIN) == 1, statuses
    assert {statuses[command] for command in ("audit public-key", "backup /var/lib/kmsd", "jobs run rotation")} == {77}
    assert host.run("kmsd user list").stdout != ""

    write(host, PIN_FILE, PIN, 0o600)
    begun = time.monotonic()
    host.run("systemctl start kmsd")
    service.until_ready()
    print(f"served {time.monotonic() - begun:.2f} s after the start")
    assert host.unit("kmsd.socket", "ActiveState") == "active"
    assert service.encrypt(service.create_key())
    until(lambda: json.loads(service.get("/readyz")[1])["token"] == "ok")
