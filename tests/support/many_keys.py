"""Many keys of a daemon that is stopped, made without its API, each with a blob; and whether all open."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from kmsd.app import Components, arn_scope_of, open_components
from kmsd.authz.lockout import default_key_policy
from kmsd.config import settings as configuration
from kmsd.custody import encryption, key_material
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import TokenName
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon

BATCH = 200


async def make_keys(daemon: Daemon, count: int) -> list[bytes]:
    """Make keys. Return a blob of each; its text is its key id."""
    made: list[bytes] = []
    async with open_components(configuration.load(daemon.config), "test") as components:
        while len(made) < count:
            keys = [await _key(components) for _ in range(min(BATCH, count - len(made)))]
            async with components.store.write() as transaction:
                for key in keys:
                    assert key.current_material is not None
                    await transaction.insert_key(key)
                    await key_material.add(transaction, key.key_id, key.current_material)
            now = datetime.now(UTC)
            made += [await encryption.encrypt(components.tokens, key, now, key.key_id.encode(), {}) for key in keys]
    return made


async def _key(components: Components) -> Key:
    key_id, now = str(uuid.uuid4()), datetime.now(UTC)
    key = Key(
        key_id,
        ACCOUNT,
        arn_scope_of(components.config).key(ACCOUNT, key_id),
        "",
        Origin.AWS_KMS,
        KeyState.ENABLED,
        default_key_policy(ACCOUNT, "aws"),
        now,
        None,
    )
    material = await key_material.generate(
        components.store, components.tokens, key, TokenName.MAIN, now=now, created=[]
    )
    return replace(key, current_material=material)


async def unopened(daemon: Daemon, made: Sequence[bytes]) -> list[str]:
    """The keys whose blob does not open, or to another text, as a further process sees them."""
    found = []
    async with open_components(configuration.load(daemon.config), "test") as components:
        reader = await components.store.read()
        for content in made:
            blob = blobs.parse(content)
            key = await reader.key(blob.key_id)
            assert key is not None
            opened = await encryption.decrypt(components.tokens, key, blob, {})
            if opened.plaintext != key.key_id.encode():
                found.append(key.key_id)
    return found
