"""The daemon over TLS: a stock client with the authority's certificate, and nothing in the clear."""

from __future__ import annotations

import http.client
import subprocess
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from tests.support.certificates import self_signed
from tests.support.clients import client
from tests.support.daemon import provisioned


def test_a_client_over_tls(tmp_path: Path) -> None:
    """boto3 with the authority's certificate works; TLS 1.1 and plain HTTP do not; the record names the version."""
    certificate, key = self_signed(tmp_path)
    with provisioned(tmp_path, workers=1) as daemon:
        text = daemon.config.read_text()
        daemon.config.write_text(
            text.replace("[token]", f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n[token]')
        )
        daemon.start(ready=False)
        session = boto3.session.Session()
        kms = session.client(
            "kms",
            region_name="us-east-1",
            endpoint_url=f"https://127.0.0.1:{daemon.port}",
            verify=str(certificate),
            aws_access_key_id=daemon.admin.access_key_id,
            aws_secret_access_key=daemon.admin.secret,
            config=Config(retries={"total_max_attempts": 20, "mode": "standard"}, connect_timeout=1),
        )
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"over TLS")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over TLS"
        record = next(one for one in reversed(daemon.audit_records()) if one.get("eventName") == "Encrypt")
        assert record["tlsDetails"]["tlsVersion"] == "TLSv1.3"
        old = ["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
        assert subprocess.run(old, input=b"", capture_output=True, check=False, timeout=30).returncode != 0
        plain = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=5)
        plain.request("GET", "/healthz")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        plain.close()
        kms.close()


def test_a_client_certificate_admits_and_no_more(tmp_path: Path) -> None:
    """Without one of the authority's the handshake fails; with one, who is not signed in is still nobody. No HSTS."""
    certificate, key = self_signed(tmp_path)
    (tmp_path / "client").mkdir()
    (tmp_path / "stranger").mkdir()
    mine, mine_key = self_signed(tmp_path / "client", "a client")
    stranger, stranger_key = self_signed(tmp_path / "stranger", "a stranger")
    with provisioned(tmp_path, workers=1) as daemon:
        lines = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\ntls_client_ca = "{mine}"\n[token]'
        daemon.config.write_text(daemon.config.read_text().replace("[token]", lines))
        daemon.start(ready=False)
        request = b"POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: 2\r\n"
        request += b"Content-Type: application/x-amz-json-1.1\r\nConnection: close\r\n\r\n{}"

        def talk(*options: str) -> bytes:
            """What `openssl s_client` is answered over one connection."""
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-quiet", "-ign_eof", *options]
            return subprocess.run(command, input=request, capture_output=True, check=False, timeout=30).stdout

        def with_mine(*options: str) -> bytes:
            return talk("-cert", str(mine), "-key", str(mine_key), *options)

        deadline = time.monotonic() + 30
        while not (answer := with_mine()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert b"MissingAuthenticationToken" in answer
        assert b"strict-transport-security" not in answer.lower()
        assert b"MissingAuthenticationToken" in with_mine("-tls1_2")
        assert talk() == b""
        assert talk("-cert", str(stranger), "-key", str(stranger_key)) == b""
        assert with_mine("-tls1_1", "-cipher", "ALL:@SECLEVEL=0") == b""
        assert with_mine("-tls1_2", "-cipher", "AES256-GCM-SHA384") == b""
        signed = client(f"https://127.0.0.1:{daemon.port}", daemon.admin, client_cert=(str(mine), str(mine_key)))
        signed._endpoint.http_session._verify = str(certificate)
        assert signed.list_keys()["Keys"] == []
        signed.close()
