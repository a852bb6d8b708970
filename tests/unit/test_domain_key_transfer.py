"""Files of a transfer of domain keys, and the codes that two people compare."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kmsd.custody.domain_key_transfer import (
    Copies,
    NotSuchFile,
    SentDomainKey,
    confirmation_code,
    decoded_request,
    decoded_transfer,
    encoded_request,
    is_code,
    new_transfer,
    transfer_text,
)


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """The public half."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


PUBLIC_KEY = spki(rsa.generate_private_key(65537, 3072))
KEYS = [SentDomainKey(bytes([n]) * 16, bytes([n]) * 32, bytes([n]) * 16) for n in (1, 2)]
TRANSFER = new_transfer("serial", KEYS, [Copies(sha256(PUBLIC_KEY).digest(), (b"first" * 80, b"second" * 70))])


def test_request() -> None:
    """Is read as it was written; its code is that of the public key alone."""
    request = decoded_request(encoded_request(PUBLIC_KEY, "serial").encode())
    assert (request.public_key, request.token_serial) == (PUBLIC_KEY, "serial")
    assert request.code == confirmation_code(PUBLIC_KEY)


def test_transfer() -> None:
    """Is read as it was written; each recipient finds its copies, another key none."""
    transfer = decoded_transfer(transfer_text(TRANSFER).encode())
    assert transfer == TRANSFER
    assert transfer.code == TRANSFER.code
    assert transfer.wrapped_for(PUBLIC_KEY) == [(KEYS[0], b"first" * 80), (KEYS[1], b"second" * 70)]
    assert transfer.wrapped_for(b"another") == []


def test_code() -> None:
    """Of 100 bits, of unmistakable characters in groups of four; another for other content."""
    code = confirmation_code(b"content")
    assert code == "XNR0-5D1S-X6P8-8QS2-6NYR"
    groups = code.split("-")
    assert [len(group) for group in groups] == [4] * 5
    assert not set("ILOU") & set("".join(confirmation_code(bytes([n])) for n in range(256)))
    assert len({confirmation_code(bytes([n])) for n in range(256)}) == 256


def test_typed_code() -> None:
    """Is recognised without regard to case, hyphens, blanks and what is mistaken for 0 and 1; else it is another."""
    code = next(one for one in map(confirmation_code, (bytes([n]) for n in range(256))) if {"0", "1"} <= set(one))
    for typed in (code, code.lower(), code.replace("-", " "), f" {code}\n", code.replace("-", "")):
        assert is_code(typed, code)
    assert is_code(code.replace("0", "O").replace("1", "l"), code)
    assert is_code(code.replace("0", "o").replace("1", "I"), code)
    for typed in ("", code[:-1], f"{code}0", code.replace("0", "1"), code[::-1]):
        assert not is_code(typed, code)


def test_every_truncation_is_refused() -> None:
    """Of both files, at each length."""
    request, transfer = encoded_request(PUBLIC_KEY, "serial").encode(), transfer_text(TRANSFER).encode()
    # The last two bytes are the closing brace and the end of the line.
    for length in range(len(request) - 1):
        with pytest.raises(NotSuchFile):
            decoded_request(request[:length])
    for length in range(len(transfer) - 1):
        with pytest.raises(NotSuchFile):
            decoded_transfer(transfer[:length])


@pytest.mark.parametrize("member", ["token_serial", "domain_keys", "copies", "digest"])
def test_damage_is_refused(member: str) -> None:
    """A transfer in which anything was changed does not have the digest that it names."""
    content = json.loads(transfer_text(TRANSFER))
    content[member] = {
        "token_serial": "another",
        "domain_keys": content["domain_keys"][::-1],
        "copies": [],
        "digest": "AAAA",
    }[member]
    with pytest.raises(NotSuchFile, match="damaged"):
        decoded_transfer(json.dumps(content).encode())


def test_other_files_are_refused() -> None:
    """Each file where the other is expected, other formats, unknown members, and other JSON."""
    request, transfer = encoded_request(PUBLIC_KEY, "serial"), transfer_text(TRANSFER)
    with pytest.raises(NotSuchFile, match="no domain key transfer"):
        decoded_transfer(request.encode())
    with pytest.raises(NotSuchFile, match="no domain key request"):
        decoded_request(transfer.encode())
    for text in (request, transfer):
        newer = json.dumps({**json.loads(text), "format": 2, "more": 1}).encode()
        with pytest.raises(NotSuchFile, match="its format is 2, and this release reads format 1"):
            decoded_request(newer) if text is request else decoded_transfer(newer)
    for content in (b"{}", b"[]", b"\xff", json.dumps({**json.loads(request), "more": 1}).encode()):
        with pytest.raises(NotSuchFile, match="no domain key request"):
            decoded_request(content)


@pytest.mark.parametrize(
    ("public_key", "reason"),
    [
        (b"no key", "holds no public key"),
        (spki(rsa.generate_private_key(65537, 2048)), "no RSA key of 3072 bits"),
        (spki(ec.generate_private_key(ec.SECP256R1())), "no RSA key of 3072 bits"),
    ],
    ids=["none", "short", "ECC"],
)
def test_request_with_another_key(public_key: bytes, reason: str) -> None:
    """Is refused before anything is wrapped for it."""
    with pytest.raises(NotSuchFile, match=reason):
        decoded_request(encoded_request(public_key, "serial").encode())


def test_incomplete_transfer() -> None:
    """One that lacks a key for a recipient, or has none at all, is refused."""
    for keys, copies in ((KEYS, [Copies(b"r", (b"one",))]), ([], [])):
        with pytest.raises(NotSuchFile, match="every domain key for every recipient"):
            decoded_transfer(transfer_text(new_transfer("serial", keys, copies)).encode())
