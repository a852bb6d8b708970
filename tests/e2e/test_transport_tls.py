"""TLS over real sockets: which versions, suites and clients are taken, and that certificates can be exchanged."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kmsd.wire.http.server import Listener, bind_tcp, serve, tls_context
from kmsd.wire.http.tls import CertificateUnusable
from tests.support.transport_site import LIMITS, Site, parts

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate, its key, and both with the key encrypted."""

    certificate: Path
    key: Path


def identity(folder: Path, name: str, *, use_rsa: bool = False, password: bytes | None = None) -> Identity:
    """Make a certificate for 127.0.0.1."""
    key = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Identity(folder / f"{name}.crt", folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    sealing = BestAvailableEncryption(password) if password else NoEncryption()
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
    return made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A TLS server, without client certificates."""
    mine = identity(tmp_path, "first")
    site = Site()
    sock = bind_tcp("127.0.0.1", 0)
    site.port = sock.getsockname()[1]
    site.listener = Listener(sock, tls_context(mine.certificate, mine.key))
    site.server = await serve(site.handle, [site.listener], LIMITS)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: site.reports.append(context))
    yield site
    await site.server.stop(0.1)
    assert site.reports == []
    assert site.server.connections == 0


def client(trusted: Path, *, version: ssl.TLSVersion | None = None, ciphers: str | None = None) -> ssl.SSLContext:
    """A client's context that trusts one certificate."""
    context = ssl.create_default_context(cafile=str(trusted))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if ciphers is not None:
        context.set_ciphers(ciphers)
    return context


async def talk(site: Site, context: ssl.SSLContext) -> tuple[bytes, ssl.SSLObject]:
    """One request over TLS; the answer, and what was negotiated."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
    try:
        writer.write(REQUEST)
        answer = await reader.read()
        return answer, writer.get_extra_info("ssl_object")
    finally:
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_modern_clients(site: Site, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 work, forward-secret and authenticated; the handler sees both names; no ticket is given."""
    context = client(tmp_path / "first.crt", version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    answer, negotiated = await talk(site, context)
    assert parts(answer)[0] == 200
    (request,) = site.seen
    assert request.tls is not None
    assert request.tls.version == version.name.replace("_", ".")
    assert request.tls.cipher == negotiated.cipher()[0]  # type: ignore[index]  # a live connection has one
    assert "GCM" in request.tls.cipher or "CHACHA20" in request.tls.cipher
    assert version is ssl.TLSVersion.TLSv1_3 or request.tls.cipher.startswith("ECDHE-")
    assert negotiated.selected_alpn_protocol() == "http/1.1"
    assert negotiated.compression() is None
    assert negotiated.session is None or not negotiated.session.has_ticket


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "DEFAULT:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_clients(site: Site, tmp_path: Path, version: ssl.TLSVersion, ciphers: str) -> None:
    """Older versions, CBC suites and key transport without forward secrecy fail in the handshake."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(site, client(tmp_path / "first.crt", version=version, ciphers=ciphers))
    assert site.seen == []
    await asyncio.sleep(0.05)
    assert site.server.refusals == {"TlsHandshake": 1}


async def test_rsa_certificate_has_forward_secrecy(site: Site, tmp_path: Path) -> None:
    """With an RSA certificate too, the session's key does not depend on the certificate's."""
    mine = identity(tmp_path, "rsa", use_rsa=True)
    site.listener.tls = tls_context(mine.certificate, mine.key)
    trusted = client(mine.certificate, version=ssl.TLSVersion.TLSv1_2)
    answer, negotiated = await talk(site, trusted)
    assert parts(answer)[0] == 200
    assert negotiated.cipher()[0].startswith("ECDHE-RSA-")  # type: ignore[index]  # a live connection has one
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(site, client(mine.certificate, version=ssl.TLSVersion.TLSv1_2, ciphers="AES256-GCM-SHA384"))


async def test_plain_http_on_the_tls_port(site: Site) -> None:
    """Who does not speak TLS gets nothing, and the server goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    assert b"HTTP" not in answer
    assert site.seen == []


async def test_silent_handshakes(site: Site, tmp_path: Path) -> None:
    """A client that does not shake hands counts as a connection, and is closed at the head's deadline."""
    pairs = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert site.server.connections == 5
    assert parts((await talk(site, client(tmp_path / "first.crt")))[0])[0] == 200
    for reader, writer in pairs:
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    assert site.server.connections == 0


async def test_refusals_arrive(site: Site, tmp_path: Path) -> None:
    """What the transport refuses is answered over TLS too, and the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=client(tmp_path / "first.crt"))
    writer.write(b"nonsense\r\n\r\n")
    assert parts(await asyncio.wait_for(reader.read(), 5))[0] == 400
    writer.close()


async def test_certificates_can_be_exchanged(site: Site, tmp_path: Path) -> None:
    """A new context serves new connections at once; an open connection stays as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=client(tmp_path / "first.crt"))
    second = identity(tmp_path, "second")
    site.listener.tls = tls_context(second.certificate, second.key)
    assert parts((await talk(site, client(second.certificate)))[0])[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        await talk(site, client(tmp_path / "first.crt"))
    writer.write(REQUEST)
    assert parts(await reader.read())[0] == 200
    writer.close()


async def test_client_certificates(site: Site, tmp_path: Path) -> None:
    """With a client authority, only clients with its certificate reach the handler."""
    caller, stranger = identity(tmp_path, "caller"), identity(tmp_path, "stranger")
    site.listener.tls = tls_context(tmp_path / "first.crt", tmp_path / "first.key", caller.certificate)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trusted = client(tmp_path / "first.crt", version=version)
        trusted.load_cert_chain(caller.certificate, caller.key)
        assert parts((await talk(site, trusted))[0])[0] == 200
        for other in (None, stranger):
            context = client(tmp_path / "first.crt", version=version)
            if other is not None:
                context.load_cert_chain(other.certificate, other.key)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                # In TLS 1.3 the client learns it with its first read.
                parts((await talk(site, context))[0] or _reset())
    assert len(site.seen) == 2


def _reset() -> bytes:
    raise ConnectionResetError("closed without an answer")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
async def test_no_renegotiation(site: Site) -> None:
    """A TLS 1.2 client that asks to negotiate anew is refused."""
    process = await asyncio.create_subprocess_exec(
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{site.port}",
        "-tls1_2",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    process.stdin.write(b"R\n")
    await process.stdin.drain()
    assert process.stdout is not None
    text = (await asyncio.wait_for(process.stdout.read(), 20)).decode()
    await process.wait()
    assert "RENEGOTIATING" in text
    assert "no renegotiation" in text


def test_unusable_files(tmp_path: Path) -> None:
    """A missing file, a key of another certificate, an encrypted key, an empty authority: each is named."""
    mine, other = identity(tmp_path, "mine"), identity(tmp_path, "other")
    encrypted = identity(tmp_path, "encrypted", password=b"secret")
    empty = tmp_path / "empty"
    empty.write_text("")
    for certificate, key, authority in (
        (tmp_path / "absent", mine.key, None),
        (mine.certificate, other.key, None),
        (encrypted.certificate, encrypted.key, None),
        (mine.certificate, mine.key, empty),
        (mine.certificate, mine.key, tmp_path / "absent"),
    ):
        with pytest.raises(CertificateUnusable, match=str(tmp_path)):
            tls_context(certificate, key, authority)
