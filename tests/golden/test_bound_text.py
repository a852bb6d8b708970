"""The text that binds wrapped material to its key: every database has MACs of it, so it never changes."""

from __future__ import annotations

import hmac
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import Algorithm, MaterialIdentity, WrappedMaterial

SYMMETRIC = WrappedMaterial(
    MaterialIdentity(
        "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        bytes(range(16)),
        KeySpec.SYMMETRIC_DEFAULT,
        KeyUsage.ENCRYPT_DECRYPT,
        Algorithm.XAES_256_GCM,
        is_imported=False,
    ),
    domain_key_id=bytes(range(16, 32)),
    binding_key=bytes(32),
    mechanism=0x2109,
    content=bytes(range(40)),
    mac=b"",
)
TEXT = (
    "6b6d73642077726170706564206d6174657269616c2031"
    "00000010" "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    "00000010" "000102030405060708090a0b0c0d0e0f"
    "00000011" "53594d4d45545249435f44454641554c54"
    "0000000f" "454e43525950545f44454352595054"
    "00000002" "0100"
    "00000000"
    "00000010" "101112131415161718191a1b1c1d1e1f"
    "00000008" "0000000000002109"
    "00000028" "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627"
)  # fmt: skip


def test_symmetric() -> None:
    """Tag, key id, material id, spec, usage, algorithm and origin, no public key, domain key, mechanism, content."""
    assert SYMMETRIC.bound_text().hex() == TEXT


def test_imported_pair() -> None:
    """No algorithm of blobs, an imported origin, and a public key."""
    identity = replace(
        SYMMETRIC.identity,
        spec=KeySpec.ECC_NIST_P256,
        usage=KeyUsage.SIGN_VERIFY,
        algorithm=None,
        is_imported=True,
    )
    pair = replace(SYMMETRIC, identity=identity, public_key=b"public key", mechanism=0x210A)
    assert sha256(pair.bound_text()).hexdigest() == "30d6ab7da528557f21272547f0e491de09b2bdd7ac55b9a1cc2d64ec3f3bba7f"


PARTS = st.tuples(
    st.uuids().map(str),
    st.binary(max_size=20),
    st.sampled_from(KeySpec),
    st.sampled_from(KeyUsage),
    st.one_of(st.none(), st.sampled_from(Algorithm)),
    st.booleans(),
    st.binary(max_size=20),
    st.integers(0, 2**63),
    st.binary(max_size=20),
    st.binary(max_size=20),
)


def _of(parts: tuple[object, ...]) -> WrappedMaterial:
    return WrappedMaterial(
        MaterialIdentity(*parts[:6]),  # type: ignore[arg-type]
        domain_key_id=parts[6],  # type: ignore[arg-type]
        binding_key=b"",
        mechanism=parts[7],  # type: ignore[arg-type]
        content=parts[8],  # type: ignore[arg-type]
        mac=b"",
        public_key=parts[9],  # type: ignore[arg-type]
    )


@given(PARTS, PARTS)
def test_no_two_materials_have_the_same_text(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    """Whatever is changed, or moved from one part to the next, the text is another one."""
    same = hmac.compare_digest(_of(one).bound_text(), _of(other).bound_text())
    assert same == (one == other)
