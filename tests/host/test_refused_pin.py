"""A wrong PIN on a booted host: the token sees it once, whatever is done, and the right one ends the matter."""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from kmsd.cli.main import parser
from tests.host.service import PIN, PIN_FILE, PORT, WRONG_PIN, Service
from tests.host.site import write
from tests.support.shim import Function

KEY, ACCESS_KEY = "alias/first", "ACCESS-KEY"
SO_PIN = "--so-pin-file /etc/hostname"
"""A wrong one, which is not offered either."""
COMMANDS = (
    *("init", "check", "check --no-token", "status", "migrate", "reload", "--version"),
    *("user create billing", "user put-policy admin --policy -", "user list", "user delete billing"),
    *("access-key create admin", "access-key list admin", f"access-key disable {ACCESS_KEY}"),
    *(f"access-key enable {ACCESS_KEY}", f"access-key delete {ACCESS_KEY}"),
    *("role create auditor --trust -", "role put-policy auditor --policy -", "role put-trust auditor --trust -"),
    *("role delete auditor", "role list"),
    *("key list", f"key show {KEY}", f"key disable {KEY}", f"key enable {KEY}", f"key policy reset {KEY}"),
    *(f"key attest {KEY}", f"key csr {KEY} --subject CN=x", f"key self-sign {KEY} --subject CN=x"),
    f"explain --principal arn:aws:iam::000000000000:user/admin --action kms:Encrypt --key {KEY}",
    *(
        "jobs run rotation",
        "jobs confirm-clock",
        "audit verify",
        "audit published",
        "migrate --to sqlite",
        "audit show --since 1h",
        "audit checkpoints",
        "audit public-key",
    ),
    *(f"domain-key create {SO_PIN}", "domain-key list", "domain-key rotate", f"domain-key destroy {16 * '00'}"),
    f"domain-key transfer --request /etc/hostname --code x --output /tmp/transfer {SO_PIN}",
    f"domain-key accept --request /tmp/request --transfer /etc/hostname {SO_PIN}",
    *("custody move --all", "apply /dev/null", "export", "join --name other", "node list", "node remove other"),
    *("open-blob", "backup /var/lib/kmsd", "restore --check /var/lib/kmsd/kmsd.sqlite"),
)
"""Every command but those of `LEFT_OUT`; `ACCESS_KEY` stands for one that exists."""
LEFT_OUT = {"serve", "pin retry"}
"""The unit runs the one; the other is the operator's word that the PIN is to be offered again."""
NEED_THE_TOKEN = (
    *("audit public-key", "backup /var/lib/kmsd", "jobs run rotation", "access-key create admin"),
    f"domain-key create {SO_PIN}",
)


def leaves(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Every command of the command line, with the words that lead to it."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield before
    for group in groups:
        for name, inner in group.choices.items():
            yield from leaves(inner, f"{before} {name}".strip())


def test_every_command_is_tried() -> None:
    """A command that is new is tried below, too."""
    tried = {leaf for leaf in leaves(parser()) if any(command.startswith(leaf) for command in COMMANDS)}
    assert set(leaves(parser())) - tried == LEFT_OUT


def connect(service: Service, connections: int) -> None:
    """So many clients that want an answer and get whatever there is."""
    with service.host.network():
        for _ in range(connections):
            with suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=0.2) as client:
                client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")


def prepare(service: Service) -> str:
    """Serve with the right PIN at first: there is a key with its alias, and a user, whose access key is returned."""
    host = service.host
    host.boot()
    service.until_ready()
    service.key_id = service.create_key()
    with service.host.network():
        kms = service.client()
        kms.create_alias(AliasName=KEY, TargetKeyId=service.key_id)
        kms.close()
    made = host.run("kmsd user create visitor --format json --output visitor.json && cat visitor.json").stdout
    host.power_off()
    service.shim.reset()
    return str(json.loads(made[made.index("{") :])["AccessKeyId"])


def settled(service: Service) -> None:
    """Wait until the service has ended and the socket, which would start it again, too."""
    service.until_state("kmsd.service", "failed", "inactive")
    service.until_state("kmsd.socket", "failed", "inactive")


def test_a_wrong_pin_is_offered_once(service: Service) -> None:
    """100 connections, 3 reboots, a reload and every command: one C_Login. The right PIN and one start: service."""
    host, access_key = service.host, prepare(service)
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
    statuses = {
        command: host.run(f"kmsd {command.replace(ACCESS_KEY, access_key)}", check=False).returncode
        for command in COMMANDS
    }
    assert service.shim.calls(Function.LOGIN) == 1, statuses
    assert {statuses[command] for command in NEED_THE_TOKEN} == {77}, statuses
    assert "user/visitor" in host.run("kmsd user list").stdout
    print(f"statuses with a refused PIN: {statuses}")

    write(host, PIN_FILE, PIN, 0o600)
    begun = time.monotonic()
    host.run("systemctl start kmsd")
    service.until_ready()
    print(f"served {time.monotonic() - begun:.2f} s after the start")
    assert host.unit("kmsd.socket", "ActiveState") == "active"
    assert service.encrypt(service.key_id)
