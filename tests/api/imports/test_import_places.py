"""A daemon without an import token, and with a further token for some specs: imports go into the main token alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import TokenName
from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.imported_kinds import import_into, material_of, use
from tests.support.key_import import current_material_id, external_key, parameters, state_of
from tests.support.key_kinds import Kind
from tests.support.material_ids import imported_ids

FURTHER = TokenName("nss")
KINDS: tuple[Kind, ...] = (
    (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
    (KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT),
    (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC),
)


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[Harness]:
    served = [spec for spec, _ in KINDS]
    with harness(tmp_path_factory.mktemp("harness"), nss_serves=served, custody=custody) as found:
        yield found


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.mark.parametrize("kind", KINDS)
def test_imports_go_into_the_main_token(harness: Harness, kms: Any, kind: Kind) -> None:
    """New keys of the spec go into the further token, imported ones do not."""
    key_id = external_key(kms, *kind)
    import_into(kms, key_id, material_of(kind[0]), "RSA_AES_KEY_WRAP_SHA_1")
    assert current_material_id(harness, key_id) in imported_ids(harness)
    further = harness.run(harness.components.tokens[FURTHER].list_objects())
    assert current_material_id(harness, key_id) not in {one.object_id for one in further}
    use(kms, key_id, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_main_token_cannot_unwrap_is_refused(kms: Any, kind: Kind) -> None:
    """SHA-256 has no token here; the key waits, and takes its material by another algorithm."""
    key_id = external_key(kms, *kind)
    for algorithm in ("RSA_AES_KEY_WRAP_SHA_256", "RSAES_OAEP_SHA_256"):
        assert code_of(parameters, kms, key_id, algorithm) == "UnsupportedOperationException"
    assert state_of(kms, key_id) == "PendingImport"
    import_into(kms, key_id, material_of(kind[0]), "RSA_AES_KEY_WRAP_SHA_1")
