"""A worker is killed while it makes the two objects of an imported pair."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from kmsd.domain.key_spec import KeySpec, KeyUsage
from tests.support.daemon_state import leftovers
from tests.support.faulty_token import bent_daemon
from tests.support.imported_kinds import material_of, use
from tests.support.key_import import external_key, parameters, state_of
from tests.support.key_kinds import Kind
from tests.support.shim import Function, Shim, compiler

KIND: Kind = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
LAST_CALLS = (Function.UNWRAP_KEY, Function.CREATE_OBJECT)
"""The private half, then the public one."""


def members_for(kms: Any, key_id: str) -> dict[str, Any]:
    """What ImportKeyMaterial wants."""
    return parameters(kms, key_id, "RSA_AES_KEY_WRAP_SHA_1").members(material_of(KIND[0]))


def calls_of_import(kms: Any, shim: Shim) -> dict[Function, int]:
    """How often an import makes each call, the self-tests left out."""
    for _ in range(2):
        members = members_for(kms, external_key(kms, *KIND))
        shim.reset()
        kms.import_key_material(**members)
    return {function: shim.calls(function) for function in LAST_CALLS}


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
@pytest.mark.parametrize("unworked", [True, False], ids=["before the call", "after the call"])
def test_no_half_of_a_pair_is_left(tmp_path: Path, *, unworked: bool) -> None:
    """The key awaits its material and takes it afterwards; no object is left over."""
    with bent_daemon(tmp_path, custody="object") as (daemon, shim):
        daemon.start()
        kms = daemon.client(read_timeout=60)
        for function in LAST_CALLS:
            calls = calls_of_import(kms, shim)
            key_id = external_key(kms, *KIND)
            members = members_for(kms, key_id)
            shim.reset()
            shim.die(function, call=calls[function], unworked=unworked)
            with pytest.raises(BotoCoreError):
                kms.import_key_material(**members)
            shim.reset()
            daemon.stop()
            daemon.start()
            assert state_of(kms, key_id) == "PendingImport"
            kms.import_key_material(**members)
            use(kms, key_id, KIND)
        daemon.stop()
        assert asyncio.run(leftovers(daemon)) == {}
