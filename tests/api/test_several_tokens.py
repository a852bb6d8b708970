"""Keys in a further token: NSS softokn beside SoftHSM, for the kinds that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kmsd.domain.material import TokenName
from kmsd.ports import TokenObject
from tests.support.clients import code_of
from tests.support.harness import Harness, harness
from tests.support.material_ids import wrapped_ids

NSS = TokenName("nss")
SHA_256 = {"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness"), nss_serves=["RSA_2048"], custody=custody) as found:
        yield found


def materials(site: Harness, name: TokenName) -> set[bytes]:
    """Key material in a token: its objects, but the daemon's own, and what is wrapped in it."""
    reports = site.run(site.components.tokens[name].list_objects())
    assert not [report for report in reports if report.problem]
    rows, domain_keys = site.run(_rows(site))
    found = {report.object_id for report in reports} - domain_keys
    assert {rows[one].token for one in found} <= {name}
    objects = {one for one in found if not rows[one].owner.startswith("service:")}
    return objects | wrapped_ids(site.config, name)


async def _rows(site: Harness) -> tuple[dict[bytes, TokenObject], set[bytes]]:
    reader = await site.components.store.read()
    rows = {row.object_id: row for row in await reader.token_objects()}
    return rows, {row.domain_key_id for row in await reader.domain_keys()}


def rsa_key(kms: Any) -> str:
    """A key of the kind that NSS serves."""
    return str(kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"])


def test_a_key_is_made_in_the_token_that_names_its_spec(site: Harness) -> None:
    """RSA_2048 goes to NSS, which offers more of it; everything else stays in the main token."""
    kms = site.client()
    before = {name: materials(site, name) for name in (TokenName.MAIN, NSS)}
    metadata = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]
    assert metadata["EncryptionAlgorithms"] == ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]
    assert len(materials(site, NSS) - before[NSS]) == 1
    assert materials(site, TokenName.MAIN) == before[TokenName.MAIN]
    kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    kms.create_key()
    assert len(materials(site, TokenName.MAIN) - before[TokenName.MAIN]) == 2
    assert len(materials(site, NSS) - before[NSS]) == 1


def test_it_is_used_deleted_and_found_again(site: Harness) -> None:
    """Encrypt, a restart, Decrypt, reconcile, and deletion, which destroys the object in its own token."""
    kms = site.client()
    key = {"KeyId": rsa_key(kms)}
    blob = kms.encrypt(**key, Plaintext=b"x", **SHA_256)["CiphertextBlob"]
    site.restart()
    kms = site.client()
    assert kms.decrypt(**key, CiphertextBlob=blob, **SHA_256)["Plaintext"] == b"x"
    site.tick()
    assert kms.describe_key(**key)["KeyMetadata"]["KeyState"] == "Enabled"
    before = {name: materials(site, name) for name in (TokenName.MAIN, NSS)}
    kms.schedule_key_deletion(**key, PendingWindowInDays=7)
    site.clock.advance(days=8)
    site.tick()
    assert len(before[NSS] - materials(site, NSS)) == 1
    assert materials(site, TokenName.MAIN) == before[TokenName.MAIN]
    assert code_of(site.client().describe_key, **key) == "NotFoundException"


def test_the_rest_is_served_while_it_is_away(site: Harness) -> None:
    """Its keys are unavailable, and none is made elsewhere in their place; all others work. It comes back by itself."""
    kms = site.client()
    there, here = rsa_key(kms), kms.create_key()["KeyMetadata"]["KeyId"]
    folder = site.config.other_tokens[NSS].dir_sync
    assert folder is not None
    away = folder.with_name("away")
    folder.rename(away)
    site.restart()
    kms = site.client()
    assert NSS not in site.components.tokens
    assert code_of(kms.encrypt, KeyId=there, Plaintext=b"x", **SHA_256) == ""  # with the public key alone
    blob = kms.encrypt(KeyId=there, Plaintext=b"x", **SHA_256)["CiphertextBlob"]
    assert code_of(kms.decrypt, KeyId=there, CiphertextBlob=blob, **SHA_256) == "KeyUnavailableException"
    assert code_of(rsa_key, kms) == "DependencyTimeoutException"
    assert kms.decrypt(CiphertextBlob=kms.encrypt(KeyId=here, Plaintext=b"y")["CiphertextBlob"])["Plaintext"] == b"y"
    site.tick()
    assert kms.describe_key(KeyId=there)["KeyMetadata"]["KeyState"] == "Enabled"
    away.rename(folder)
    site.run(site.components.other_tokens.seek())
    assert kms.decrypt(KeyId=there, CiphertextBlob=blob, **SHA_256)["Plaintext"] == b"x"
