"""Where the handle of a key comes from: an object in the token, or wrapped material."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.adapters.pkcs11.handle_cache import Entry, Handles
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.wrapped_keys import WrappedKeys
    from kmsd.domain.material import KeyReference


def id_of(key: KeyReference) -> bytes:
    """Return the id of a key: its CKA_ID, or that of its material."""
    return key if type(key) is bytes else key.material_id  # type: ignore[union-attr]  # not bytes


class KeyHandles(msgspec.Struct):
    """Both kinds of custody, in one login."""

    objects: Handles
    wrapped: WrappedKeys

    @contextmanager
    def held(self, session: Session, key: KeyReference) -> Iterator[Entry]:
        """Yield the handles of a key, which does not end inside the block.

        `kmsd.adapters.pkcs11.object_locks` keeps token objects. Raises `NotFound`, `TamperedMaterial`, `CkrError`.
        """
        if isinstance(key, bytes):
            yield self.objects.entry(session, key)
            return
        held = self.wrapped.hold(session, key)
        try:
            yield held.entry
        finally:
            self.wrapped.done(held)

    def is_known(self, key: KeyReference) -> bool:
        """True if using the key needs no search and no unwrapping."""
        return self.objects.known(key) is not None if isinstance(key, bytes) else self.wrapped.has(key)

    def invalidate(self, key_id: bytes) -> None:
        """Forget the handles of a key."""
        self.objects.invalidate(key_id)
        self.wrapped.invalidate(key_id)
