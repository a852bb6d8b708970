"""TLS configuration: only cipher suites with forward secrecy and authenticated encryption."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""Cipher suites of TLS 1.2. All of TLS 1.3 have both properties; OpenSSL offers its default list of those."""


class TlsFiles(NamedTuple):
    """PEM files. Each is read once, when a context is created."""

    certificate: Path
    """The certificate, followed by its chain."""
    key: Path
    client_authority: Path | None = None


class CertificateUnusable(RuntimeError):
    """The certificate, key or client authority cannot be used; the text names the file."""


def tls_context(certificate: Path, key: Path, client_authority: Path | None = None) -> ssl.SSLContext:
    """Create a server context: TLS 1.2 and 1.3, ALPN `http/1.1`. `client_authority` makes client certificates required.

    To reload, create a new context and assign it to `Listener.tls`. No half-loaded context is ever in use, and an
    authority removed from the file is no longer trusted. Raises `CertificateUnusable`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # OpenSSL would seal tickets under a key that lives as long as the process. An attacker who gets it reads every
    # resumed session: no forward secrecy (RFC 5077, section 5.5). A full handshake costs a millisecond.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateUnusable(f"{certificate} with {key}: {_sentence(error)}") from error
    except OSError as error:
        raise CertificateUnusable(f"{certificate} or {key} cannot be read: {error.strerror}") from error
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_authority)
        except ssl.SSLError as error:
            raise CertificateUnusable(f"{client_authority}: {_sentence(error)}") from error
        except OSError as error:
            raise CertificateUnusable(f"{client_authority} cannot be read: {error.strerror}") from error
    return context


def refuse_expired(certificate: Path, now: datetime) -> None:
    """Raise `CertificateUnusable` if the first certificate in the file has expired: every client would refuse it."""
    # Import only when there is a certificate: this module is a quarter of the parent process's imports.
    from cryptography import x509  # noqa: PLC0415

    try:
        expires = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise CertificateUnusable(f"{certificate}: {error}") from error
    if expires < now:
        raise CertificateUnusable(
            f"{certificate} expired on {expires:%Y-%m-%d %H:%M} UTC: put a new certificate and its key in place, "
            "then run `systemctl reload-or-restart kmsd.service`"
        )


def _sentence(error: ssl.SSLError) -> str:
    """Return OpenSSL's objection in words."""
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not the one of the certificate"
    if reason is None and "PEM lib" in str(error):
        return "one of them holds no certificate, or no key, in PEM"
    return str(error)


def _no_password() -> str:
    """Fail instead of prompting at a terminal that does not exist."""
    raise ssl.SSLError("the key is encrypted; the daemon takes unencrypted keys that only it can read")
