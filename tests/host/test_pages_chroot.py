"""The pages' commands that need no systemd, where no host boots: in a chroot of the same Debian, as they stand.

Left out are blocks that call systemd. The one that starts the service is the exception: `kmsd serve` runs in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import image
from tests.host.machine import Chroot, Machine, machine
from tests.host.pages import Block, blocks, walk
from tests.host.shell import Shell, login
from tests.support.polling import until

SYSTEMD = re.compile(r"\b(systemctl|systemd-\w+|journalctl)\b")
START = "systemctl enable --now"
SERVE = """install -d -m 0700 -o kmsd /run/credentials
install -m 0400 -o kmsd /etc/kmsd/credentials/pin /run/credentials/
CREDENTIALS_DIRECTORY=/run/credentials kmsd serve
"""
"""What systemd does for the daemon: it hands over a copy of the PIN that the user kmsd can read."""


@pytest.fixture(scope="module", name="host")
def _host(chroot_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("chroot"), [chroot_files], image.wheels(), Chroot) as found:
        image.checkout(found.root / "root/kmsd")
        found.boot()
        yield found


def test_the_readme(host: Machine) -> None:
    """`scripts/run` in one terminal, the page's commands in another."""
    with login(host, "/root/kmsd") as first, login(host, "/root/kmsd") as second:
        first.begin("scripts/run")
        until(lambda: host.run("curl -fs http://127.0.0.1:8480/readyz", check=False).returncode == 0, 120)
        assert "attack at dawn" in walk(second, "README.md", list(blocks("README.md")))
        first.interrupt()
        until(lambda: host.run("curl -s http://127.0.0.1:8480/healthz", check=False).returncode != 0)


def start(block: Block, shell: Shell, daemon: Shell, host: Machine) -> None:
    """Run the block that starts the service, with `kmsd serve` for the line that does it."""
    for command in block.commands:
        if START not in command:
            assert shell.run(command).failed == (), command
    daemon.begin(SERVE)
    ready = "curl -fs --cacert certificate.pem https://127.0.0.1:8480/readyz"
    try:
        until(lambda: host.run(ready, check=False).returncode == 0, 60)
    except AssertionError as error:
        raise AssertionError(daemon.printed()) from error


def test_a_bare_host_to_a_first_encryption(host: Machine) -> None:
    """docs/install.md, "Try it on a bare host"."""
    with login(host, "/root/kmsd") as daemon, login(host, "/root/kmsd") as shell:
        # Without systemd nothing else tells where credentials are.
        shell.run("export CREDENTIALS_DIRECTORY=/etc/kmsd/credentials")
        for name, block in blocks("docs/install.md").items():
            if not name.startswith("try-"):
                continue
            if START in block.text:
                start(block, shell, daemon, host)
            elif not SYSTEMD.search(block.text):
                walk(shell, "docs/install.md", [name])
        daemon.interrupt()
