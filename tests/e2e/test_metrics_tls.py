"""Metrics over TLS: where Prometheus is on another host, as in Kubernetes."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import self_signed
from tests.support.daemon import eventually, free_port, provisioned
from tests.support.metrics_page import of, parse


def scraped(port: int, authority: Path, host: str = "") -> str:
    """The page, if its certificate is of this authority. Raises `OSError`."""
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", "/metrics", headers={"Host": host} if host else {})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


def test_metrics_over_tls(tmp_path: Path) -> None:
    """With the API's certificate, and with the next one after a reload; under any name; never in plain HTTP."""
    certificate, key = self_signed(tmp_path)
    (tmp_path / "next").mkdir()
    renewed, renewed_key = self_signed(tmp_path / "next", "renewed")
    port = free_port()
    with provisioned(tmp_path) as daemon:
        lines = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n[token]'
        text = daemon.config.read_text().replace("[token]", lines)
        daemon.config.write_text(f'{text}\n[metrics]\naddress = "127.0.0.1:{port}"\ntls = true\n')
        first = tmp_path / "first.pem"
        first.write_bytes(certificate.read_bytes())
        daemon.start(ready=False)
        eventually(lambda: bool(daemon.events("ready")), daemon)
        assert of(parse(scraped(port, first)), "kmsd_workers", state="alive") == 1
        assert "kmsd_certificate_not_after_timestamp_seconds" in scraped(port, first, "kmsd-0.kmsd-nodes.default.svc")
        plain = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        plain.request("GET", "/metrics")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        plain.close()
        certificate.write_bytes(renewed.read_bytes())
        key.write_bytes(renewed_key.read_bytes())
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGHUP)
        eventually(lambda: '"event": "reloaded"' in daemon.log(), daemon)
        assert "kmsd_build_info" in scraped(port, renewed)
        with pytest.raises(ssl.SSLCertVerificationError):
            scraped(port, first)


def test_metrics_over_tls_need_a_certificate(tmp_path: Path) -> None:
    """Without one the configuration is refused, and nothing is served in the clear instead."""
    with provisioned(tmp_path) as daemon:
        daemon.config.write_text(daemon.config.read_text() + '\n[metrics]\naddress = "127.0.0.1:0"\ntls = true\n')
        done = daemon.cli("serve", check=False)
        assert done.returncode == 78
        assert b"metrics.tls needs tls_certificate in [listen]" in done.stderr
