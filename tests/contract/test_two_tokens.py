"""Two tokens with the same domain key, and one database: what one has made, the other uses."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.ceremony import NewDomainKey
from kmsd.adapters.pkcs11.domain_key_transfer import receiver, send_domain_keys
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.authz.lockout import default_key_policy
from kmsd.custody import key_material
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import ALGORITHMS, EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Algorithm, Material, MaterialStatus, WrappedMaterial
from kmsd.ports import NoSuchObject
from tests.support.key_kinds import Kind, kinds, mac_of, oaep, point_of, verify
from tests.support.tokens import TokenPlace, another_softhsm
from tests.support.wrapped_keys import AAD, SYMMETRIC, TEXT, XAES, identity, rows_of

ACCOUNT = "000000000000"
LONG = (KeySpec.RSA_3072, KeySpec.RSA_4096)
"""Made and used by the same code as RSA_2048, for seconds."""
Result = bytes | tuple[bytes, bytes]
"""Ciphertext, MAC or signature; or a peer's point and the shared secret."""


class Site:
    """A token, and a database of its own."""

    def __init__(self, place: TokenPlace, database: Path) -> None:
        self.place, self.database = place, database

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Pkcs11Token, SqliteStore]]:
        """Both, until the end of the block."""
        store = SqliteStore(self.database)
        try:
            async with self.place.open() as token:
                yield token, store
        finally:
            await store.close()

    def replicate(self, other: Site) -> None:
        """Copy the database to the other site, as a backup or a replica does."""
        with closing(sqlite3.connect(self.database)) as opened:
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for suffix in ("-wal", "-shm"):
            Path(f"{other.database}{suffix}").unlink(missing_ok=True)
        shutil.copy(self.database, other.database)


@pytest.fixture(name="sites")
async def _sites(softhsm_place: TokenPlace, tmp_path: Path) -> tuple[Site, Site, Site]:
    """Two whose tokens have the same domain key, by a ceremony, and one whose token has none."""
    places = (softhsm_place, another_softhsm(softhsm_place, "there"), another_softhsm(softhsm_place, "elsewhere"))
    here, there, elsewhere = (Site(place, tmp_path / f"{place.label}.sqlite") for place in places)
    with receiver(there.place.settings(), there.place.so_pin) as receiving:
        transfer = send_domain_keys(here.place.settings(), here.place.so_pin, 1, [receiving.public_key])
        receiving.accept(transfer)
    (row,) = rows_of([NewDomainKey(one.domain_key_id, one.binding_key) for one in transfer.domain_keys])
    connection.create(here.database)
    store = SqliteStore(here.database)
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, datetime.now(UTC))
        await transaction.insert_domain_key(row)
    await store.close()
    here.replicate(there)
    here.replicate(elsewhere)
    return here, there, elsewhere


async def the_domain_key(store: SqliteStore) -> DomainKey:
    """Its row."""
    (found,) = await (await store.read()).domain_keys()
    return found


async def make_keys(site: Site) -> dict[str, Kind]:
    """Make a key of each kind that the token wraps; a symmetric one with each algorithm. Their kinds by key id."""
    made: dict[str, Kind] = {}
    async with site.opened() as (token, store):
        domain_key = await the_domain_key(store)
        offers, unwrappable = await token.key_offers(), await token.custody.unwrappable(domain_key)
        wanted: list[tuple[Kind, Algorithm]] = [(SYMMETRIC, one) for one in sorted(token.capabilities.algorithms)]
        wanted += [
            (kind, XAES)
            for kind in kinds()
            if kind[0] not in LONG and offers[kind].algorithms and kind not in unwrappable
        ]
        for kind, algorithm in wanted:
            bound_to, now = identity(kind, algorithm=algorithm), datetime.now(UTC)
            wrapped = await token.custody.generate(bound_to, domain_key)
            material = Material(
                bound_to.material_id,
                bound_to.algorithm,
                MaterialStatus.READY,
                now,
                public_key=wrapped.public_key,
                wrapped=wrapped,
            )
            key = Key(
                bound_to.key_id,
                ACCOUNT,
                f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{bound_to.key_id}",
                "",
                Origin.AWS_KMS,
                KeyState.ENABLED,
                default_key_policy(ACCOUNT, "aws"),
                now,
                material,
                spec=kind[0],
                usage=kind[1],
            )
            async with store.write() as transaction:
                await transaction.insert_key(key)
                await key_material.add(transaction, key.key_id, material)
            made[key.key_id] = kind
    return made


async def material_of(store: SqliteStore, key_id: str) -> WrappedMaterial:
    """The key's material, as the database has it."""
    key = await (await store.read()).key(key_id)
    assert key is not None
    assert key.current_material is not None
    assert key.current_material.wrapped is not None
    return key.current_material.wrapped


async def results(site: Site, made: dict[str, Kind]) -> dict[str, Result]:
    """Use every key: a ciphertext, a MAC, a signature, or a shared secret with the point of the peer."""
    async with site.opened() as (token, store):
        return {key_id: await result(token, await material_of(store, key_id)) for key_id in made}


async def result(token: Pkcs11Token, material: WrappedMaterial) -> Result:
    """What a key makes."""
    spec, usage, algorithm = material.identity.spec, material.identity.usage, material.identity.algorithm
    first = ALGORITHMS[spec][usage][0]
    if algorithm is not None:
        return await token.encrypt(material, algorithm, TEXT, AAD)
    if usage is KeyUsage.GENERATE_VERIFY_MAC:
        return await token.mac(material, mac_of(spec), TEXT)
    if usage is KeyUsage.SIGN_VERIFY:
        return await token.sign(material, SigningAlgorithm(first), TEXT, is_digest=False)
    if usage is KeyUsage.ENCRYPT_DECRYPT:
        public = load_der_public_key(material.public_key)
        return public.encrypt(TEXT, oaep(first))  # type: ignore[union-attr]
    own = load_der_public_key(material.public_key)
    assert isinstance(own, ec.EllipticCurvePublicKey)
    peer = point_of(ec.generate_private_key(own.curve).public_key())
    return peer, await token.agree(material, peer)


async def same(token: Pkcs11Token, material: WrappedMaterial, expected: Result) -> None:
    """The token's key is the one that made this result: it opens, repeats or continues it."""
    spec, usage, algorithm = material.identity.spec, material.identity.usage, material.identity.algorithm
    first = ALGORITHMS[spec][usage][0]
    if isinstance(expected, tuple):
        peer, secret = expected
        assert await token.agree(material, peer) == secret
    elif algorithm is not None:
        assert await token.decrypt(material, algorithm, expected, AAD) == TEXT
    elif usage is KeyUsage.GENERATE_VERIFY_MAC:
        assert await token.mac(material, MacAlgorithm(first), TEXT) == expected
    elif usage is KeyUsage.SIGN_VERIFY:
        again = await token.sign(material, SigningAlgorithm(first), TEXT, is_digest=False)
        for signature in (expected, again):
            verify(material.public_key, SigningAlgorithm(first), TEXT, signature, digest=False)
    else:
        assert await token.decrypt_rsa(material, EncryptionAlgorithm(first), expected) == TEXT


async def test_each_uses_what_the_other_made(sites: tuple[Site, Site, Site]) -> None:
    """Keys of every kind, made in either token, with the rows of a copied database."""
    here, there, elsewhere = sites
    pairs: Sequence[tuple[Site, Site]] = ((here, there), (there, here))
    for maker, user in pairs:
        made = await make_keys(maker)
        assert len(made) >= 10
        expected = await results(maker, made)
        maker.replicate(user)
        async with user.opened() as (token, store):
            await token.custody.prove(await the_domain_key(store))
            for key_id in made:
                material = await material_of(store, key_id)
                await token.custody.require_bound(material)
                await same(token, material, expected[key_id])
        # And back: what the user makes, the maker opens.
        returned = await results(user, made)
        async with maker.opened() as (token, store):
            for key_id in made:
                await same(token, await material_of(store, key_id), returned[key_id])
        maker.replicate(elsewhere)
        await nothing_opens(elsewhere, expected)


async def nothing_opens(site: Site, expected: dict[str, Result]) -> None:
    """A token without the domain key has the rows, and no key."""
    async with site.opened() as (token, store):
        for key_id, made in expected.items():
            material = await material_of(store, key_id)
            with pytest.raises(NoSuchObject):
                await token.custody.require_bound(material)
            with pytest.raises(NoSuchObject):
                await same(token, material, made)
        with pytest.raises(NoSuchObject):
            await token.custody.prove(await the_domain_key(store))


async def test_rewrapped_in_one_used_in_the_other(sites: tuple[Site, Site, Site]) -> None:
    """After a rotation to a domain key that both have, the rows from before it and from after it open in the other."""
    here, there, _ = sites
    made = await make_keys(here)
    expected = await results(here, made)
    with receiver(there.place.settings(), there.place.so_pin) as receiving:
        transfer = send_domain_keys(here.place.settings(), here.place.so_pin, 1, [receiving.public_key])
        receiving.accept(transfer)
    (row,) = rows_of([NewDomainKey(one.domain_key_id, one.binding_key) for one in transfer.domain_keys])
    async with here.opened() as (token, store):
        before = [await material_of(store, key_id) for key_id in made]
        moved = await token.custody.rewrap(before, row)
    async with there.opened() as (token, _):
        for key_id, old, new in zip(made, before, moved, strict=True):
            assert isinstance(new, WrappedMaterial)
            assert new.domain_key_id == row.domain_key_id
            for material in (old, new):
                await same(token, material, expected[key_id])
