"""Translation of PostgreSQL's errors to the port's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from kmsd.ports import StoreConflict, StoreError, StoreTimeout, StoreUnavailable, StoreUnfit

_CONFLICT = "23"
"""Class of SQLSTATE: integrity constraint violation."""
_TIMEOUTS = frozenset({"55P03", "40P01", "57014"})
"""Lock not available, deadlock, statement timeout."""
_LOST = "08"
"""Class of SQLSTATE: connection exception, which asyncpg raises for a connection that ended."""
_UNFIT = frozenset({"3D000", "42P01", "42703", "42501", "28P01", "28000", "XX001", "XX002"})
"""No such database, table or column; no permission; wrong password or role; damaged data: an operator must act."""


@contextmanager
def translated() -> Iterator[None]:
    """Translate exceptions of asyncpg, which have no common base.

    A violated constraint becomes `StoreConflict`, a lock held too long `StoreTimeout`, what an operator must resolve
    `StoreUnfit`, and anything else, a lost connection above all, `StoreUnavailable`.
    """
    try:
        yield
    except StoreError:
        raise
    except asyncpg.PostgresError as exc:
        raise _of_server(exc) from exc
    except (
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        UnicodeError,
    ) as exc:  # OSError: TimeoutError too
        raise StoreUnavailable(f"the database cannot be reached ({type(exc).__name__}: {exc})") from exc


def _of_server(exc: asyncpg.PostgresError) -> StoreError:
    code = exc.sqlstate or ""
    text = f"{type(exc).__name__} {code}"
    if code.startswith(_CONFLICT):
        return StoreConflict(f"it exists already, or what it belongs to is gone ({text})")
    if code in _TIMEOUTS:
        return StoreTimeout(f"another transaction holds the database ({text})")
    if code in _UNFIT:
        return StoreUnfit(f"the database refuses: {exc} ({text})")
    if code.startswith(_LOST):
        return StoreUnavailable(f"the connection to the database is lost ({text})")
    return StoreUnavailable(f"the database refused ({text})")
