"""Errors of the store, and the records that it keeps for the daemon itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.material import TokenName

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.material import Algorithm, MaterialStatus


class StoreError(Exception):
    """The store did not do what was asked; nothing was changed."""


class StoreUnavailable(StoreError):
    """The store cannot be read or written now; it may come back."""


class StoreMissing(StoreUnavailable):
    """There is no database. Its file system may be mounted later, or `kmsd init` has not been run."""


class StoreUnfit(StoreUnavailable):
    """The database is damaged, another program's, or of another release. Waiting does not help."""


class StoreTimeout(StoreUnavailable):
    """Somebody else held the store for too long; trying again will do."""


class StoreConflict(StoreError):
    """What was to be changed is no longer what it was when it was read; or the new thing exists already.

    The whole of what was read and decided may be repeated: the pipeline does so, a bounded number of times.
    """


class TokenObject(msgspec.Struct, frozen=True):
    """What the store knows of an object in the token: the intent, the promise, or the doom."""

    object_id: bytes
    owner: str
    """For log and report: `key:<id>`, `imported:<key id>`, `import:<key spec>`, `service:<purpose>`."""
    status: MaterialStatus
    created_at: datetime
    token: TokenName = TokenName.MAIN
    """Which token holds it."""
    owner_is_dead: bool = False
    """Whether the process that wrote the row is certain to have ended."""


class ServiceKey(msgspec.Struct, frozen=True):
    """A token object of the daemon's own."""

    purpose: str
    """`sentinel`, `sealing`, `audit`; unique."""
    object_id: bytes
    algorithm: Algorithm | None
    """None for the audit key, which signs."""


class SessionMac(msgspec.Struct, frozen=True):
    """The key that authenticates session tokens, and until when those without a MAC are accepted."""

    sealed: bytes | None
    """Sealed under the service key; None: no session was issued yet."""
    older_until: datetime | None
    """Session tokens of releases that made none are accepted before this instant; None: they are not."""


class DueKind(StrEnum):
    """What time brings about."""

    DELETION = "deletion"
    """A key's waiting period is over."""
    EXPIRY = "expiry"
    """Imported material is past its ValidTo."""
    ROTATION = "rotation"
    """An enabled key wants a new material."""
