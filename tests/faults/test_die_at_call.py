"""A worker is killed right before, and right after, each call by which it changes the token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from tests.support.daemon import Daemon
from tests.support.daemon_state import leftovers, opened
from tests.support.faulty_token import bent_daemon
from tests.support.key_import import external_key, parameters, state_of
from tests.support.polling import until
from tests.support.shim import Function, Shim, compiler

WHOLE = "KMSD_TEST_EVERY_CALL" in os.environ
"""Each call of each act: five minutes."""
CHANGING = (
    *(Function.CREATE_OBJECT, Function.COPY_OBJECT, Function.DESTROY_OBJECT, Function.SET_ATTRIBUTE_VALUE),
    *(Function.GENERATE_KEY, Function.GENERATE_KEY_PAIR, Function.UNWRAP_KEY, Function.DERIVE_KEY, Function.WRAP_KEY),
)
SOME = {
    "object": {("create", Function.GENERATE_KEY, 1)},
    "wrapped": {("create", Function.WRAP_KEY, 1), ("rotate", Function.UNWRAP_KEY, 1), ("bring", Function.WRAP_KEY, 1)},
}
"""In the default tier."""

log = logging.getLogger(__name__)
MATERIAL = bytes(range(32))


@dataclass
class Scene:
    """What the acts are done to, and what must be true of it."""

    daemon: Daemon
    kms: Any
    key_id: str = ""
    blob: bytes = b""
    external: str = ""
    members: dict[str, Any] = field(default_factory=dict)
    keys: int = 0

    def prepare(self) -> None:
        """A key with a blob, an imported one, and import parameters."""
        self.key_id = self.kms.create_key()["KeyMetadata"]["KeyId"]
        self.blob = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"]
        self.external = external_key(self.kms)
        self.members = parameters(self.kms, self.external).members(MATERIAL)

    def imported(self, *, wanted: bool) -> None:
        """Bring the external key into the state that the act begins with."""
        state = state_of(self.kms, self.external)
        if wanted and state == "PendingImport":
            self.kms.import_key_material(**self.members)
        if not wanted and state == "Enabled":
            self.kms.delete_imported_key_material(KeyId=self.external)

    def count(self) -> tuple[int, int]:
        """Keys, and rotations of the first."""
        rotations = len(self.kms.list_key_rotations(KeyId=self.key_id)["Rotations"])
        pages = self.kms.get_paginator("list_keys").paginate()
        return sum(len(page["Keys"]) for page in pages), rotations

    # --- acts ---------------------------------------------------------------------------------------

    def create(self) -> None:
        self.kms.create_key()

    def rotate(self) -> None:
        self.kms.rotate_key_on_demand(KeyId=self.key_id)

    def parameters(self) -> None:
        parameters(self.kms, self.external)

    def bring(self) -> None:
        self.kms.import_key_material(**self.members)

    def lose(self) -> None:
        self.kms.delete_imported_key_material(KeyId=self.external)


ACTS: dict[str, Callable[[Scene], None]] = {
    "create": Scene.create,
    "rotate": Scene.rotate,
    "parameters": Scene.parameters,
    "bring": Scene.bring,
    "lose": Scene.lose,
}


def calls_of(scene: Scene, shim: Shim, name: str) -> list[tuple[Function, int]]:
    """Each changing call of an act that goes well."""
    scene.imported(wanted=name == "lose")
    shim.reset()
    ACTS[name](scene)
    return [(function, call) for function in CHANGING for call in range(1, shim.calls(function) + 1)]


def struck(scene: Scene, shim: Shim, name: str, where: tuple[Function, int], *, unworked: bool) -> bool:
    """Do the act, and kill the worker at that call. Whether it died there; all holds, or AssertionError."""
    daemon = scene.daemon
    scene.imported(wanted=name == "lose")
    keys, rotations = scene.count()
    logins, acknowledged = opened(daemon), False
    shim.reset()
    shim.die(where[0], call=where[1], unworked=unworked)
    with contextlib.suppress(BotoCoreError):
        ACTS[name](scene)
        acknowledged = True
    died = not acknowledged
    shim.reset()
    if died and daemon.log().count('"event": "worker_exited"') % 2 == 0:
        # Who dies again and again is started anew after longer and longer pauses.
        daemon.stop()
        daemon.start()
    elif died:
        until(lambda: opened(daemon) > logins)
        daemon.wait_ready()
    more_keys, more_rotations = (now - then for now, then in zip(scene.count(), (keys, rotations), strict=True))
    assert more_keys in ({1} if acknowledged and name == "create" else {0, 1} if name == "create" else {0})
    assert more_rotations in ({1} if acknowledged and name == "rotate" else {0, 1} if name == "rotate" else {0})
    scene.kms.encrypt(KeyId=scene.key_id, Plaintext=b"x")
    assert scene.kms.decrypt(CiphertextBlob=scene.blob)["Plaintext"] == b"old"
    assert state_of(scene.kms, scene.external) in ("Enabled", "PendingImport")
    scene.imported(wanted=True)
    blob = scene.kms.encrypt(KeyId=scene.external, Plaintext=b"x")["CiphertextBlob"]
    assert scene.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    return died


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
@pytest.mark.parametrize("custody", SOME)
def test_killed_at_each_call_that_changes_the_token(tmp_path: Path, custody: str) -> None:
    """The act is done or not done, the others are untouched, and after a reconcile nothing is left over."""
    deaths: list[str] = []
    with bent_daemon(tmp_path, custody=custody) as (daemon, shim):
        daemon.start()
        scene = Scene(daemon, daemon.client(read_timeout=60))
        scene.prepare()
        for name in ACTS:
            for where in calls_of(scene, shim, name):
                if not WHOLE and (name, *where) not in SOME[custody]:
                    continue
                if name == "rotate":
                    scene.prepare()  # a key is rotated on demand so many times, and no more
                for when in ("before", "after"):
                    died = struck(scene, shim, name, where, unworked=when == "before")
                    deaths += [f"{name} {where[0].name} {where[1]} {when}"] if died else []
        daemon.cli("audit", "verify")
        daemon.stop()
        assert asyncio.run(leftovers(daemon)) == {}
    log.info("%d deaths: %s", len(deaths), deaths)
    assert len(deaths) >= 2 * len(SOME[custody])
