"""The daemon over a token that makes its own nonces and appends them, as Thales Luna does in FIPS mode."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faulty_token import bent_daemon
from tests.support.shim import Shim, compiler

CONTEXT = {"purpose": "test"}


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
@pytest.mark.parametrize(
    ("prepare", "algorithm"),
    [
        (lambda shim: shim.append_iv(16, refuses_given=True), (3, "AES_256_GCM_IV16")),
        (lambda shim: shim.append_iv(None, refuses_given=True), (1, "XAES_256_GCM")),
    ],
    ids=["16 bytes", "as asked"],
)
def test_a_life_of_a_key(tmp_path: Path, prepare: Callable[[Shim], None], algorithm: tuple[int, str]) -> None:
    """Set up, checked, used, restarted, and opened without the daemon."""
    number, name = algorithm
    with bent_daemon(tmp_path, prepare=prepare, workers=2) as (daemon, _):
        checked = daemon.cli("check").stdout.decode()
        assert f"ok   new keys encrypt by {name}, algorithm {number} of docs/ciphertext.md\n" in checked
        only_opened = "note blobs of XAES_256_GCM, AES_256_GCM are decrypted, and none are made: "
        assert (only_opened in checked) is (number == 3)
        daemon.start()
        kms = daemon.client()
        key_id, other = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"secret", EncryptionContext=CONTEXT)["CiphertextBlob"]
        assert blob[:2] == bytes((1, number))
        data_key = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
        moved = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=other)
        daemon.stop()
        daemon.start()
        kms = daemon.client()
        assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"secret"
        assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
        assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"secret"
        daemon.stop()
        (tmp_path / "blob").write_bytes(base64.b64encode(blob))
        opened = daemon.cli("open-blob", str(tmp_path / "blob"), "--context", "purpose=test")
        assert opened.stdout == b"secret"
        assert "Traceback" not in daemon.log()
