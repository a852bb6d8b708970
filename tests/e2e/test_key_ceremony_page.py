"""docs/key-ceremony.md: every command, typed on a terminal, for one HSM and for two."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, provisioned
from tests.support.key_ceremonies import Terminal, listed, terminal
from tests.support.page_commands import ROOT, commands
from tests.support.tokens import SO_PIN

PAGE = "docs/key-ceremony.md"
BLOCKS = ("create", "look", "accept", "transfer", "compare", "first", "rotate", "rewrap", "destroy")
COUNT = 13
PIN_QUESTION = "PIN of the security officer (SO PIN):"


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> Iterator[Daemon]:
    """The host that makes domain keys."""
    with provisioned(tmp_path / "here", custody="object") as found:
        yield found


@pytest.fixture(name="there")
def _there(tmp_path: Path) -> Iterator[Daemon]:
    """The host that takes them over."""
    with provisioned(tmp_path / "there", custody="object") as found:
        yield found


def typing(daemon: Daemon, name: str) -> AbstractContextManager[Terminal]:
    """A block of the page, typed in the daemon's folder."""
    kmsd = f'kmsd() {{ {sys.executable} -m kmsd --config {daemon.config} "$@"; }}\n'
    # The folder of backups is the host's, and the test's is its own.
    block = commands(PAGE, name).replace("/srv/backups", str(daemon.folder / "backups/"))
    shell = shutil.which("bash")
    assert shell is not None
    return terminal([shell, "-euo", "pipefail", "-c", kmsd + block], cwd=daemon.folder)


def typed(daemon: Daemon, name: str, status: tuple[int, ...] = (0,)) -> str:
    """What a block without questions prints."""
    with typing(daemon, name) as shown:
        assert shown.end() in status, shown.text
        return shown.text


def looks_well(text: str, domain_keys: int) -> None:
    """What the page says of `list` and `check`; the clock of a test host may be a warning."""
    assert text.count("\tpresent") == domain_keys
    assert text.count("the token enforces what it promises, by trial") == domain_keys
    assert "FAIL" not in text


def test_one_hsm(here: Daemon) -> None:
    """From the ceremony to a destroyed domain key."""
    with typing(here, "create") as shown:
        shown.expect(PIN_QUESTION)
        shown.type(SO_PIN)
        assert shown.end() == 0, shown.text
    assert shown.text.count(" in token main: next") == COUNT - 1
    assert shown.text.count(" in token main: current") == 1
    assert SO_PIN not in shown.text
    looks_well(typed(here, "look", (0, 1)), COUNT)
    assert "is retiring" in typed(here, "rotate")
    assert "\tretiring\t" in typed(here, "rewrap")
    assert "is destroyed: what it wrapped cannot be opened any more" in typed(here, "destroy")
    states = [state for state, _, _ in listed(here).values()]
    assert (states.count("next"), states.count("current"), states.count("destroyed")) == (COUNT - 2, 1, 1)


def test_two_hsms(here: Daemon, there: Daemon) -> None:
    """Both hosts hold the same domain keys, and rotate to the same one."""
    with typing(there, "accept") as waiting:
        waiting.expect(PIN_QUESTION)
        waiting.type(SO_PIN)
        waiting.expect("Confirmation code of the request: ")
        waiting.expect("\n")
        request_code = waiting.text.splitlines()[-1].rpartition(" ")[2]
        shutil.copy(there.folder / "request.json", here.folder)
        with typing(here, "transfer") as sending:
            sending.expect("Confirmation code that `kmsd domain-key accept` shows where request.json was made:")
            sending.type(request_code)
            sending.expect(PIN_QUESTION)
            sending.type(SO_PIN)
            sending.expect("Confirmation code of the transfer: ")
            assert sending.end() == 0, sending.text
        assert sending.text.count(" in token main: next") == COUNT
        transfer_code = next(line for line in sending.text.splitlines() if "code of the transfer" in line)[-24:]
        shutil.copy(here.folder / "transfer.json", there.folder)
        waiting.expect("Confirmation code that `kmsd domain-key transfer` shows:")
        waiting.type(transfer_code)
        assert waiting.end() == 0, waiting.text
    assert waiting.text.count(" in token main: next") == COUNT
    for daemon in (here, there):
        looks_well(typed(daemon, "compare", (0, 1)), COUNT)
        assert "is current" in typed(daemon, "first")
    assert listed(here) == listed(there)


def test_no_block_is_left_out() -> None:
    """Every block of the page is run here."""
    text = (ROOT / PAGE).read_text()
    assert [line for line in text.splitlines() if line.startswith("<!-- test: ")] == [
        f"<!-- test: {name} -->" for name in BLOCKS
    ]
    assert text.count("```sh") == len(BLOCKS)
