"""Key material on its way into the main token: forwarded to it, unwrapped and proven in it, and stored or wrapped."""

from __future__ import annotations

from uuid import UUID

import msgspec

from kmsd.domain.domain_key import DomainKey
from kmsd.domain.key import Key
from kmsd.domain.key_import import ImportedMaterial, WrappingKey
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import MaterialIdentity, TokenName, WrappedMaterial
from kmsd.ports import ImportedKey, Token, Tokens, Wrapped

_MARK = b"kmsd imported material 1"


class IncomingMaterial(msgspec.Struct, frozen=True):
    """Wrapped material of a key, in a form that the main token can unwrap."""

    token: Token
    key: Key
    wrapped: Wrapped

    async def prove(self) -> ImportedKey:
        """Unwrap and verify the material, and leave nothing in the token. Raises as the token's methods."""
        mark = fingerprint_mark(self.key.key_id)
        if self.key.spec is KeySpec.SYMMETRIC_DEFAULT:
            return ImportedKey(await self.token.unwrap_key(self.wrapped, mark), b"")
        return await self.token.import_key(self.wrapped, (self.key.spec, self.key.usage), mark)

    async def create(self, record: ImportedMaterial) -> None:
        """Create the object of proven material, of which this is the record."""
        mark, expected, object_id = fingerprint_mark(self.key.key_id), record.fingerprint, record.material_id
        if record.algorithm is not None:
            await self.token.unwrap_key(self.wrapped, mark, expected=expected, into=(object_id, record.algorithm))
        else:
            kind = self.key.spec, self.key.usage
            await self.token.import_key(self.wrapped, kind, mark, expected=expected, into=object_id)

    async def wrap(self, record: ImportedMaterial, domain_key: DomainKey) -> WrappedMaterial:
        """Return proven material, of which this is the record, wrapped under a domain key."""
        identity = MaterialIdentity(
            self.key.key_id,
            record.material_id,
            self.key.spec,
            self.key.usage,
            record.algorithm,
            is_imported=True,
        )
        mark = fingerprint_mark(self.key.key_id)
        return await self.token.custody.import_material(
            self.wrapped, mark, record.fingerprint, identity=identity, domain_key=domain_key
        )

    async def recreate(self, record: ImportedMaterial) -> None:
        """Create a missing object, after destroying one that an earlier attempt may have left."""
        await self.token.destroy(record.material_id)
        await self.create(record)


def fingerprint_mark(key_id: str) -> bytes:
    """Return the message of the fingerprint: longer than a block, unlike XAES-256-GCM's derivation input."""
    return _MARK + UUID(key_id).bytes


async def forwarded(tokens: Tokens, wrapping_key: WrappingKey, key: Key, wrapped: Wrapped) -> IncomingMaterial:
    """Return the material in a form that the main token can unwrap. The import token rewraps what it alone can."""
    if wrapping_key.token != TokenName.MAIN:
        transport_key = await tokens.main.transport_key()
        wrapped = await tokens[wrapping_key.token].rewrap_for(wrapped, transport_key, key.spec)
    return IncomingMaterial(tokens.main, key, wrapped)
