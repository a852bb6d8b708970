"""Commands on domain keys are killed at each call by which they change the token, and at each write to the database.

A killed ceremony leaves nothing, or locked domain keys that the database does not know and that wrap nothing: never one
that can be read or extracted. A killed rotation has happened or has not. A killed destruction is completed by another.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass

from kmsd.adapters.pkcs11.ceremony import ceremony
from kmsd.adapters.pkcs11.domain_key_profile import DOMAIN_KEY
from kmsd.adapters.pkcs11.roles import IDENTITY, attribute_mismatches
from kmsd.custody.domain_key_transfer import decoded_request, encoded_request, transfer_text
from tests.support.daemon import Daemon
from tests.support.faulty_token import bent_daemon
from tests.support.key_ceremonies import accepting, act, listed
from tests.support.shim import Function, Shim, compiler
from tests.support.software_transfer import software_key, transfer_of
from tests.support.token_domain_keys import as_user
from tests.support.tokens import SOFTHSM, TokenPlace
from tests.support.write_cuts import Dying, Moment

WHOLE = "KMSD_TEST_EVERY_CALL" in os.environ
"""Each call and each write of each act: an hour."""
CALLS = (
    *(Function.LOGIN, Function.LOGOUT, Function.CREATE_OBJECT, Function.COPY_OBJECT, Function.DESTROY_OBJECT),
    *(Function.SET_ATTRIBUTE_VALUE, Function.GENERATE_KEY, Function.GENERATE_KEY_PAIR, Function.WRAP_KEY),
    *(Function.UNWRAP_KEY,),
)
LAST = 0
"""The last call of a function."""
SOME: Mapping[str, tuple[tuple[Function, int], ...]] = {
    "create": ((Function.COPY_OBJECT, 1), (Function.LOGOUT, 1)),
    "transfer": ((Function.COPY_OBJECT, 2),),
    "accept": ((Function.COPY_OBJECT, 1),),
    "rotate": ((Function.SET_ATTRIBUTE_VALUE, 1),),
    "destroy": ((Function.DESTROY_OBJECT, LAST),),
}
"""In the default tier, of each act. Before the domain key, `destroy` destroys objects of self-tests."""
STRIDE = 1 if WHOLE else 25
"""Every so manieth write to the database."""
WRITING = ("create", "transfer", "accept", "rotate", "destroy") if WHOLE else ("create",)
"""Acts that are killed at writes to the database."""
KILLED = -signal.SIGKILL
PUBLIC_KEY = software_key()[1]

log = logging.getLogger(__name__)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200 if WHOLE else 1200),
    pytest.mark.skipif(compiler() is None, reason="what kills needs a C compiler"),
]


@dataclass
class Scene:
    """What the acts are done to, and what must be true of it."""

    daemon: Daemon
    states: dict[str, str] = field(default_factory=dict)
    """Before an act."""

    @property
    def place(self) -> TokenPlace:
        """The token, without what bends it."""
        return replace(self.daemon.place, module=SOFTHSM)

    def now(self) -> dict[str, str]:
        """State of each domain key that has a row."""
        return {one: state for one, (state, _, _) in listed(self.daemon).items() if state != "unknown"}

    def of_state(self, state: str) -> str:
        """One domain key that was in a state before the act."""
        return next(one for one, its in self.states.items() if its == state)

    def prepare(self, name: str) -> None:
        """Bring about what the act begins with."""
        states = self.now().values()
        rotates = name == "rotate" or (name == "destroy" and "retiring" not in states)
        if "current" not in states or (rotates and "next" not in states):
            act(self.daemon, "create", "--count", "8")
        if name == "destroy" and rotates:
            self.daemon.cli("domain-key", "rotate")
        self.states = self.now()

    # --- acts: the exit status of each --------------------------------------------------------------

    def create(self) -> int:
        return act(self.daemon, "create", "--count", "2", check=False).returncode

    def transfer(self) -> int:
        request, out = self.daemon.folder / "a-request.json", self.daemon.folder / f"{secrets.token_hex(4)}.json"
        request.write_text(encoded_request(PUBLIC_KEY, "software"))
        code = decoded_request(request.read_bytes()).code
        named = ("--request", str(request), "--code", code, "--output", str(out), "--count", "2")
        return act(self.daemon, "transfer", *named, check=False).returncode

    def accept(self) -> int:
        folder = self.daemon.folder / secrets.token_hex(4)
        folder.mkdir()
        with accepting(self.daemon, folder) as accept:
            if accept.process.poll() is None:
                public_key = decoded_request(accept.request.read_bytes()).public_key
                sent = transfer_of(public_key, [secrets.token_bytes(32) for _ in range(2)])
                accept.transfer.write_text(transfer_text(sent))
                accept.type(sent.code)
            return accept.process.wait(60)

    def rotate(self) -> int:
        return self.daemon.cli("domain-key", "rotate", check=False).returncode

    def destroy(self) -> int:
        command = ("domain-key", "destroy", self.of_state("retiring"), "--without-backup")
        return self.daemon.cli(*command, check=False).returncode

    # --- what must be true --------------------------------------------------------------------------

    def verify(self, name: str, *, acknowledged: bool) -> None:
        """All holds, whether the act was done or not."""
        verify_token(self.place)
        before, now = self.states, self.now()
        assert list(now.values()).count("current") == 1
        added = now.keys() - before.keys()
        changed = {one: now[one] for one, state in before.items() if now[one] != state}
        if name in {"create", "transfer", "accept"}:
            assert changed == {}
            assert len(added) in ({2} if acknowledged else {0, 2})
            return
        assert added == set()
        if name == "destroy":
            self._verify_destruction(now)
        elif acknowledged or changed:
            assert sorted((before[one], state) for one, state in changed.items()) == [
                ("current", "retiring"),
                ("next", "current"),
            ]

    def _verify_destruction(self, now: Mapping[str, str]) -> None:
        """It is done, or is completed by another."""
        gone = self.of_state("retiring")
        if now[gone] != "destroyed":
            self.daemon.cli("domain-key", "destroy", gone, "--without-backup")
        assert listed(self.daemon)[gone] == ("destroyed", "0 materials", "-")


def verify_token(place: TokenPlace) -> None:
    """Every domain key in it is locked, and nobody sees a secret key without the PIN."""
    with ceremony(place.settings()) as here:
        assert here.raw.find(here.session, {Attribute.CLASS: int(ObjectClass.SECRET_KEY)}) == []
        assert here.raw.find(here.session, {Attribute.CLASS: int(ObjectClass.PRIVATE_KEY)}) == []
    with as_user(place) as here:
        for handle in here.raw.find(here.session, {Attribute.TRUSTED: True}):
            shown = here.raw.attributes(here.session, handle, (*IDENTITY, *DOMAIN_KEY.template))
            assert attribute_mismatches(DOMAIN_KEY, shown[Attribute.ID], "kmsd", shown) == []


ACTS: Mapping[str, Callable[[Scene], int]] = {
    name: getattr(Scene, name) for name in ("create", "transfer", "accept", "rotate", "destroy")
}


def calls_of(scene: Scene, shim: Shim, name: str) -> list[tuple[Function, int]]:
    """The calls of an act that goes well."""
    scene.prepare(name)
    shim.reset()
    assert ACTS[name](scene) == 0
    return [(function, call) for function in CALLS for call in range(1, shim.calls(function) + 1)]


@pytest.mark.parametrize("name", ACTS)
def test_killed_at_each_call_that_changes_the_token(tmp_path: Path, name: str) -> None:
    """Right before and right after each."""
    deaths = 0
    with bent_daemon(tmp_path) as (daemon, shim):
        scene = Scene(daemon)
        calls = calls_of(scene, shim, name)
        counts = dict(calls)  # of each function, its last
        wanted = calls if WHOLE else [(one, call or counts[one]) for one, call in SOME[name]]
        assert set(wanted) <= set(calls)
        for function, call in wanted:
            for unworked in (True, False):
                scene.prepare(name)
                shim.reset()
                shim.die(function, call=call, unworked=unworked)
                status = ACTS[name](scene)
                shim.reset()
                assert status in (0, KILLED), (function, call)
                deaths += status == KILLED
                scene.verify(name, acknowledged=status == 0)
        scene.prepare(name)
        assert ACTS[name](scene) == 0
        daemon.cli("audit", "verify")
    log.info("%s: %d deaths", name, deaths)
    assert deaths >= 2 * len(SOME[name])


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.mark.parametrize("name", WRITING)
def test_killed_at_each_write_to_the_database(tmp_path: Path, name: str) -> None:
    """Before, amid and after each."""
    (tmp_path / "library").mkdir()
    dying, deaths = Dying(tmp_path / "library"), 0
    with bent_daemon(tmp_path / "daemon") as (daemon, _):
        scene = Scene(daemon)
        for moment in Moment:
            number, status = 1, KILLED
            while status == KILLED:
                scene.prepare(name)
                with environment(dying.environment("kmsd.sqlite", number, moment)):
                    status = ACTS[name](scene)
                assert status in (0, KILLED)
                deaths += status == KILLED
                scene.verify(name, acknowledged=status == 0)
                number += STRIDE
        daemon.cli("audit", "verify")
    log.info("%s: %d deaths", name, deaths)
    assert deaths > len(Moment)
