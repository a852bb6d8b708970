"""Every command of the pages, as it stands, from top to bottom, in a login shell of root on a booted host.

Nothing that a page defines is replaced, and no path. What a page has an operator edit, bring or type is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import image
from tests.host.machine import Machine, machine
from tests.host.pages import PAGES, blocks, unmarked, walk
from tests.host.shell import Shell, login
from tests.host.site import bring_certificate, bring_hsm, configure, make_token
from tests.support.polling import until

MAX_COMMANDS = 15
"""From a bare host to a first encryption over TLS."""
SO_PIN, PIN = "so-pin-0001\n", "user-pin-0001\n"


def test_no_command_of_the_pages_is_left_out() -> None:
    """Each block of shell commands bears a mark, and so is run below, or in test_package.py."""
    assert {page: unmarked(page) for page in PAGES if unmarked(page)} == {}


@pytest.fixture(name="bare")
def _bare(installed: list[Path], tmp_path: Path) -> Iterator[Machine]:
    """A host where nothing but the installation was done, not booted yet."""
    with machine(tmp_path, installed, image.wheels()) as found:
        yield found


def test_a_bare_host_to_a_first_encryption(bare: Machine) -> None:
    """docs/install.md, "Try it on a bare host": TLS, at most 15 commands, and a ciphertext at the end."""
    names = [name for name in blocks("docs/install.md") if name.startswith("try-")]
    commands = [command for name in names for command in blocks("docs/install.md")[name].commands]
    print(f"{len(commands)} commands from a bare host to a first encryption")
    assert 0 < len(commands) <= MAX_COMMANDS, commands
    bare.boot()
    with login(bare, "/root/kmsd") as shell:
        walk(shell, "docs/install.md", names)
    seen = "openssl s_client -connect 127.0.0.1:8480 -CAfile certificate.pem -verify_return_error </dev/null"
    assert "Verification: OK" in bare.run(seen).stdout


def test_the_page_of_installation(bare: Machine) -> None:
    """docs/install.md, "Set up for production" and after: from the installation to the removal."""
    names = [name for name in blocks("docs/install.md") if not name.startswith(("try-", "package-"))]
    bring_hsm(bare)
    bare.boot()
    make_token(bare, SO_PIN.strip(), PIN.strip())
    bring_certificate(bare)
    configure(bare)
    with login(bare, "/root/kmsd") as shell:
        walk(shell, "docs/install.md", names, {"pin": [("", f"{PIN}\x04")]})
    assert bare.run("command -v kmsd", check=False).returncode != 0
    assert bare.run("ls /var/lib/kmsd").stdout


@pytest.fixture(scope="module", name="host")
def _host(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One host for the pages that go on from each other; the tests below are in the order of an operator's days."""
    with machine(tmp_path_factory.mktemp("pages"), installed, image.wheels()) as found:
        bring_hsm(found)
        found.boot()
        yield found


@pytest.fixture(scope="module", name="shell")
def _shell(host: Machine) -> Iterator[Shell]:
    """The operator's login."""
    with login(host) as found:
        yield found


def test_the_readme(host: Machine) -> None:
    """`scripts/run` in one terminal, the page's commands in another."""
    with login(host, "/root/kmsd") as first, login(host, "/root/kmsd") as second:
        first.begin("scripts/run")
        until(lambda: host.run("curl -fs http://127.0.0.1:8480/readyz", check=False).returncode == 0, 280)
        printed = walk(second, "README.md", list(blocks("README.md")))
        assert "attack at dawn" in printed
        assert "ALLOWED by identity-policy:" in printed
        first.interrupt()
        until(lambda: host.run("curl -s http://127.0.0.1:8480/healthz", check=False).returncode != 0)


def test_the_operations_guide(host: Machine, shell: Shell) -> None:
    """Day 0 and every day; and the move, whose other host is this one with an empty data folder."""
    bring_certificate(host)
    configure(host)
    walk(shell, "docs/install.md", ["tls"])
    names = list(blocks("docs/operations-guide.md"))
    ceremony = [("SO PIN: ", SO_PIN), ("user PIN: ", PIN)]
    moving = names.index("move-to")
    walk(shell, "docs/operations-guide.md", names[:moving], {"ceremony": ceremony})
    host.run("rm -r /var/lib/kmsd && install -d -o kmsd -g kmsd -m 0700 /var/lib/kmsd")
    walk(shell, "docs/operations-guide.md", names[moving:])


def test_the_recipes(host: Machine, shell: Shell) -> None:
    """Each recipe, with what it says is printed; the aws CLI is the one of the README."""
    shell.run("export PATH=$PATH:/root/kmsd/.venv/bin AWS_CA_BUNDLE=/root/certificate.pem")
    typed = {
        "pin": [("new user PIN: ", "user-pin-0002\n")],
        "lost-pin": [("SO PIN: ", SO_PIN), ("new user PIN: ", "user-pin-0003\n")],
    }
    walk(shell, "docs/recipes.md", list(blocks("docs/recipes.md")), typed)


def test_the_page_of_monitoring(shell: Shell) -> None:
    """Metrics are on, and are scraped by TCP."""
    printed = walk(shell, "docs/monitoring.md", list(blocks("docs/monitoring.md")))
    assert "\nkmsd_ready 1.0\n" in printed


def test_the_page_of_backups(shell: Shell) -> None:
    """One is made, checked and restored."""
    printed = walk(shell, "docs/backup.md", list(blocks("docs/backup.md")))
    assert "ok   restored to" in printed
