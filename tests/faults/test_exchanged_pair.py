"""A key pair in the token that is not the one that the database knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmsd.domain.key_spec import KeySpec, KeyUsage
from tests.support.clients import code_of
from tests.support.harness import Harness, harness


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), custody="object") as found:
        yield found


def test_an_exchanged_pair_is_not_used(site: Harness) -> None:
    """Someone destroys the pair and makes another of the same id: reconcile finds it, and the key is unavailable."""
    kms = site.client()
    key_id = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    sign = {"KeyId": key_id, "Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"}
    kms.sign(**sign)
    site.run(_exchange(site, key_id))
    site.restart()
    site.tick()
    kms = site.client()
    assert code_of(kms.sign, **sign) == "KeyUnavailableException"
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"


async def _exchange(site: Harness, key_id: str) -> None:
    key = await (await site.components.store.read()).key(key_id)
    assert key is not None
    assert key.current_material is not None
    object_id, token = key.current_material.material_id, site.components.token
    await token.destroy(object_id)
    await token.generate_key_pair(object_id, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
