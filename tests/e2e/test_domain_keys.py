"""`kmsd domain-key`: key ceremonies, the list, rotation and destruction, as an operator does them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kmsd.exit_codes import EXIT_DATA, EXIT_INTERRUPTED, EXIT_NOT_FOUND, EXIT_PIN_REFUSED, EXIT_USAGE
from tests.support.daemon import Daemon, further_section, provisioned
from tests.support.key_ceremonies import accepting, act, listed, so_pin_file, terminal, transfer_code
from tests.support.token_domain_keys import as_user, make_domain_key
from tests.support.tokens import PIN, SO_PIN, SOFTHSM, TokenPlace, another_softhsm


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not running."""
    with provisioned(tmp_path / "here", custody="object") as found:
        yield found


@pytest.fixture(name="there")
def _there(tmp_path: Path) -> Iterator[Daemon]:
    """Another one, with a token of its own."""
    with provisioned(tmp_path / "there", custody="object") as found:
        yield found


def of_state(daemon: Daemon, state: str) -> str:
    """The id of the only domain key in a state."""
    (found,) = [one for one, (its, _, _) in listed(daemon).items() if its == state]
    return found


def events(daemon: Daemon) -> list[tuple[str, str, str | None]]:
    """Name, phase and error of each act on domain keys in the trail."""
    return [
        (record["eventName"], record["additionalEventData"]["phase"], record.get("errorCode"))
        for record in daemon.audit_records()
        if "DomainKey" in record["eventName"]
    ]


def done(*names: str) -> list[tuple[str, str, str | None]]:
    """The records of acts that went well."""
    return [(name, phase, None) for name in names for phase in ("intent", "outcome")]


def refused(daemon: Daemon, *arguments: str) -> str:
    """What a command says that is refused for the state of things."""
    found = daemon.cli("domain-key", *arguments, check=False)
    assert found.returncode == EXIT_DATA, found
    return found.stderr.decode()


def test_from_ceremony_to_destruction(here: Daemon) -> None:
    """The first becomes current, the next waits its turn; the retired one goes once a backup has been made since."""
    act(here, "create", "--count", "2")
    states = listed(here)
    assert sorted(states.values()) == [("current", "0 materials", "present"), ("next", "0 materials", "present")]
    first, second = of_state(here, "current"), of_state(here, "next")
    assert "is current" in refused(here, "destroy", first)
    here.cli("domain-key", "rotate")
    assert listed(here) == {
        first: ("retiring", "0 materials", "present"),
        second: ("current", "0 materials", "present"),
    }
    assert "no next domain key" in refused(here, "rotate")
    assert "no backup is known" in refused(here, "destroy", first)
    here.cli("backup", str(here.folder / "backups/"))
    here.cli("domain-key", "destroy", first)
    assert listed(here)[first] == ("destroyed", "0 materials", "-")
    assert "destroyed already" in refused(here, "destroy", first)
    assert events(here) == done("CreateDomainKeys", "RotateDomainKey", "DestroyDomainKey")
    here.cli("audit", "verify")
    with as_user(here.place) as token:
        assert len(token.raw.find(token.session, {})) == len(states) - 1 + SERVICE_OBJECTS


SERVICE_OBJECTS = 5
"""Objects after `kmsd init`: sentinel, sealing key, key of the logs service, audit key and its public half."""


def test_destruction_without_a_backup(here: Daemon) -> None:
    """Is the operator's word; a next one needs none; a backup from before the rotation is none."""
    act(here, "create", "--count", "3")
    here.cli("backup", str(here.folder / "backups/"))
    first = of_state(here, "current")
    here.cli("domain-key", "rotate")
    assert "the last backup is of" in refused(here, "destroy", first)
    here.cli("domain-key", "destroy", first, "--without-backup")
    here.cli("domain-key", "destroy", of_state(here, "next"))
    assert sorted(state for state, _, _ in listed(here).values()) == ["current", "destroyed", "destroyed"]


def test_beside_a_daemon_that_serves(here: Daemon) -> None:
    """It serves before, meanwhile and afterwards."""
    here.start()
    kms = here.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    act(here, "create", "--count", "2")
    here.cli("domain-key", "rotate")
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
    kms.create_key()
    here.stop()
    here.start()
    assert here.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"


def test_wrong_pin_of_the_security_officer(here: Daemon) -> None:
    """One attempt, exit status 77, nothing made, and a record of the failure without the PIN."""
    found = here.cli("domain-key", "create", "--so-pin-file", so_pin_file(here, "another-pin"), check=False)
    assert found.returncode == EXIT_PIN_REFUSED
    assert b"security officer's PIN" in found.stderr
    assert listed(here) == {}
    assert events(here) == [("CreateDomainKeys", "intent", None), ("CreateDomainKeys", "outcome", "PinRefused")]
    for path in (here.data / "audit").iterdir():
        assert b"another-pin" not in path.read_bytes()


def test_wrong_command_lines(here: Daemon) -> None:
    """Are refused before anything is asked for."""
    for arguments in (["--count", "0"], ["--count", "65"], ["--count", "x"], ["--token", "import"]):
        assert here.cli("domain-key", "create", *arguments, check=False).returncode == EXIT_USAGE
    found = here.cli("domain-key", "create", "--token", "x", "--so-pin-file", so_pin_file(here), check=False)
    assert found.returncode == EXIT_NOT_FOUND
    assert here.cli("domain-key", "destroy", "xy", check=False).returncode == EXIT_USAGE
    assert here.cli("domain-key", "destroy", "00" * 16, check=False).returncode == EXIT_NOT_FOUND
    assert events(here) == []


def test_the_terminal_asks_for_the_pin(here: Daemon) -> None:
    """And shows nothing of what is typed."""
    with terminal([sys.executable, "-m", "kmsd", "--config", str(here.config), "domain-key", "create"]) as shown:
        shown.expect("SO PIN")
        shown.type(SO_PIN)
        shown.expect(": current")
        assert shown.process.wait(60) == 0
    assert SO_PIN not in shown.text


# --- a second token ---------------------------------------------------------------------------------


def transfer(
    daemon: Daemon, requests: Mapping[Path, str], *options: str, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """`kmsd domain-key transfer` for these requests with their codes."""
    named = [part for path, code in requests.items() for part in ("--request", str(path), "--code", code)]
    return act(daemon, "transfer", *named, *options, check=check)


def test_two_tokens(here: Daemon, there: Daemon) -> None:
    """Both have the same domain keys afterwards, and rotate to them; files that are not right are waited out."""
    out = here.folder / "out.json"
    with accepting(there) as accept:
        wrong = transfer(here, {accept.request: "0000-0000-0000-0000-0000"}, "--output", str(out), check=False)
        assert wrong.returncode == EXIT_DATA
        assert b"not the code" in wrong.stderr
        assert not out.exists()
        assert listed(here) == {}
        sent = transfer(here, {accept.request: accept.code().lower()}, "--output", str(out), "--count", "2")
        content = out.read_bytes()
        accept.transfer.write_bytes(content[: len(content) // 2])
        accept.shows("a part of it is missing")
        accept.transfer.write_bytes(content)
        accept.shows("Confirmation code that")
        accept.type("0000-0000-0000-0000-0000")
        accept.shows("that is not the code of", 1)
        accept.type(transfer_code(sent.stdout))
        assert accept.process.wait(60) == 0, accept.log()
    assert listed(here) == listed(there)
    assert set(listed(there).values()) == {("next", "0 materials", "present")}
    for daemon in (here, there):
        daemon.cli("domain-key", "rotate")
        checked = daemon.cli("check").stdout.decode()
        assert len(re.findall(r"ok   domain key \w{32} of token main: .*; the token enforces", checked)) == 2
        daemon.cli("audit", "verify")
    assert of_state(here, "current") == of_state(there, "current")
    assert events(here) == done("TransferDomainKeys", "RotateDomainKey")
    assert events(there) == done("AcceptDomainKeys", "RotateDomainKey")


def test_a_request_that_is_not_one(here: Daemon, there: Daemon) -> None:
    """Truncated, of another kind, or exchanged for an attacker's: refused by name, and nothing is made."""
    with accepting(there) as accept:
        whole, code = accept.request.read_text(), accept.code()
    path = here.folder / "request.json"
    for content, reason in ((whole[:200], "a part of it is missing"), ("{}", "no domain key request")):
        path.write_text(content)
        found = transfer(here, {path: code}, "--output", str(here.folder / "out.json"), check=False)
        assert found.returncode == EXIT_DATA
        assert f"{path}: " in found.stderr.decode()
        assert reason in found.stderr.decode()
    path.write_text(whole)
    found = transfer(here, {path: code[::-1]}, "--output", str(here.folder / "out.json"), check=False)
    assert found.returncode == EXIT_DATA
    assert listed(here) == {}
    assert not (here.folder / "out.json").exists()


def test_a_transfer_for_another_process(here: Daemon, there: Daemon) -> None:
    """Is waited out: the key pair of an `accept` ends with it. A timeout and Ctrl-C end the waiting."""
    with accepting(there) as accept:
        old, code = accept.request.read_text(), accept.code()
        accept.process.send_signal(signal.SIGINT)
        assert accept.process.wait(60) == EXIT_INTERRUPTED
        accept.request.unlink()
    path, out = here.folder / "request.json", here.folder / "out.json"
    path.write_text(old)
    transfer(here, {path: code}, "--output", str(out))
    with accepting(there) as accept:
        accept.transfer.write_bytes(out.read_bytes())
        accept.shows("it was made for other requests")
        accept.process.send_signal(signal.SIGINT)
        assert accept.process.wait(60) == EXIT_INTERRUPTED
        accept.request.unlink()
    with accepting(there, None, "--timeout", "0") as accept:
        assert accept.process.wait(60) == EXIT_DATA
        assert "within 0 minutes" in accept.log()
    assert listed(there) == {}


def test_the_code_of_the_transfer_is_asked_for(here: Daemon, there: Daemon) -> None:
    """Without it nothing is accepted, whoever made the file."""
    out = here.folder / "out.json"
    with accepting(there) as accept:
        transfer(here, {accept.request: accept.code()}, "--output", str(out))
        accept.transfer.write_bytes(out.read_bytes())
        accept.shows("Confirmation code that")
        assert accept.process.stdin is not None
        accept.process.stdin.close()
        assert accept.process.wait(60) == EXIT_DATA
        assert "no code was typed" in accept.log()
    assert listed(there) == {}


def test_a_further_token(tmp_path: Path) -> None:
    """Has domain keys of its own."""
    # In the folder of the first: a module reads one configuration.
    folder = tmp_path / "daemon" / "token"
    environment = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    further = TokenPlace("softhsm", SOFTHSM, "further", PIN, folder, folder / "tokens", environment=environment)

    def with_further(place: TokenPlace) -> TokenPlace:
        another_softhsm(place, further.label)
        return place

    section = further_section(tmp_path, further, "b", ["*"])
    with provisioned(tmp_path / "daemon", extra=section, reach=with_further, custody="object") as daemon:
        act(daemon, "create")
        act(daemon, "create", "--token", "b", "--count", "2")
        lines = [line.split("\t") for line in daemon.cli("domain-key", "list").stdout.decode().splitlines()]
        assert sorted((line[1], line[2], line[6]) for line in lines) == [
            ("b", "current", "present"),
            ("b", "next", "present"),
            ("main", "current", "present"),
        ]
        daemon.cli("domain-key", "rotate", "--token", "b")
        assert "no next domain key" in refused(daemon, "rotate")


# --- what is not as it should be --------------------------------------------------------------------


def test_unknown_ones(here: Daemon) -> None:
    """Those that only the token has are listed, reported, and destroyed on the operator's word alone."""
    made = make_domain_key(here.place).domain_key_id.hex()
    assert listed(here) == {made: ("unknown", "0 materials", "present")}
    assert f"warn domain key {made} of token main is not in the database" in here.cli("check").stdout.decode()
    assert "--unknown" in refused(here, "destroy", made)
    here.cli("domain-key", "destroy", made, "--unknown")
    assert listed(here) == {}
    assert events(here) == done("DestroyDomainKey")


def test_the_daemons_other_objects_are_no_domain_keys(here: Daemon) -> None:
    """None of them can be destroyed by this command."""
    with as_user(here.place) as token:
        ids = {
            next(iter(token.raw.attributes(token.session, one, (0x102,)).values()))
            for one in token.raw.find(token.session, {})
        }
    for object_id in ids:
        found = here.cli("domain-key", "destroy", object_id.hex(), "--unknown", check=False)
        assert found.returncode == EXIT_NOT_FOUND
    here.cli("check")


def test_missing_ones(here: Daemon) -> None:
    """Are listed, reported, not rotated to, and their destruction is completed."""
    act(here, "create", "--count", "2")
    current, waiting = of_state(here, "current"), of_state(here, "next")
    with as_user(here.place) as token:
        for one in (current, waiting):
            token.raw.destroy(token.session, token.find(bytes.fromhex(one)))
    assert {presence for _, _, presence in listed(here).values()} == {"missing"}
    found = here.cli("check", check=False)
    assert found.returncode == 2
    assert f"FAIL domain key {current} of token main (current) is not in the token" in found.stdout.decode()
    assert f"warn domain key {waiting} of token main (next) is not in the token" in found.stdout.decode()
    assert here.cli("domain-key", "rotate", check=False).returncode != 0
    assert listed(here)[current][0] == "current"
    here.cli("domain-key", "destroy", waiting)
    assert listed(here)[waiting] == ("destroyed", "0 materials", "-")
