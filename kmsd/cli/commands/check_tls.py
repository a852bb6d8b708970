"""`kmsd check`: certificate, key and chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa

from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, WARN, Finding
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.wire.http.tls import CertificateUnusable, tls_context

TOPIC = "tls"
EXPIRY_WARNING = timedelta(days=14)
MIN_RSA_BITS = 2048


def findings(config: Config, now: datetime) -> Iterator[Finding]:
    """Yield the findings on the configured files; for plain HTTP, only a note."""
    listen = config.listen
    if listen.tls_certificate is None or listen.tls_key is None:
        yield Finding(NOTE, TOPIC, "plain HTTP: loopback addresses and Unix sockets only")
        return
    try:
        tls_context(listen.tls_certificate, listen.tls_key, listen.tls_client_ca)
    except (CertificateUnusable, ConfigError) as exc:
        yield Finding(FAIL, TOPIC, str(exc))
    else:
        yield Finding(OK, TOPIC, f"{listen.tls_key} fits {listen.tls_certificate}")
    for path in (listen.tls_certificate, listen.tls_client_ca):
        if path is not None:
            yield from _file(path, now, is_server=path == listen.tls_certificate)


def _file(path: Path, now: datetime, *, is_server: bool) -> Iterator[Finding]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as exc:
        yield Finding(FAIL, TOPIC, f"{path} cannot be read: {exc.strerror}")
        return
    except (ValueError, ConfigError) as exc:
        yield Finding(FAIL, TOPIC, f"{path} holds no certificate in PEM: {exc}")
        return
    for certificate in certificates:
        yield _validity(path, certificate, now)
    if is_server:
        yield from _leaf(path, certificates[0])
        yield _chain(path, certificates)


def _validity(path: Path, certificate: x509.Certificate, now: datetime) -> Finding:
    name = certificate.subject.rfc4514_string() or "a certificate without a name"
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        text = f"{path}: {name} has expired on {end:%Y-%m-%d %H:%M} UTC: clients refuse it"
        return Finding(FAIL, TOPIC, f"{text}; put a new certificate there, with its key, and reload")
    if now < begin:
        text = f"{path}: {name} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        return Finding(FAIL, TOPIC, f"{text}: is the clock right?")
    text = f"{path}: {name} expires on {end:%Y-%m-%d}, in {(end - now).days} days"
    if end - now < EXPIRY_WARNING:
        return Finding(WARN, TOPIC, f"{text}: put a new certificate there, with its key, and reload")
    return Finding(OK, TOPIC, text)


def _leaf(path: Path, certificate: x509.Certificate) -> Iterator[Finding]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        yield Finding(FAIL, TOPIC, f"{path}: an RSA key of {key.key_size} bits is too short")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = ", ".join(str(name.value) for name in names)
        yield Finding(OK, TOPIC, f"{path} is for {shown}")
    except x509.ExtensionNotFound:
        yield Finding(WARN, TOPIC, f"{path} has no subject alternative names: clients refuse it")


def _chain(path: Path, certificates: Sequence[x509.Certificate]) -> Finding:
    for below, above in pairwise(certificates):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            names = f"{below.subject.rfc4514_string()} was not issued by {above.subject.rfc4514_string()}"
            return Finding(FAIL, TOPIC, f"{path}: the chain is broken: {names}, which follows it")
    last = certificates[-1]
    if last.subject == last.issuer:
        return Finding(OK, TOPIC, f"{path}: the chain of {len(certificates)} ends in a self-signed certificate")
    return Finding(
        OK, TOPIC, f"{path}: a chain of {len(certificates)}; clients must trust {last.issuer.rfc4514_string()}"
    )
