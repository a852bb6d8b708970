"""One change of `kmsd apply`: a line of the plan, a statement in the transaction, and a record in the trail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kmsd.cli.commands.operator_audit import IAM
from kmsd.ports import Transaction

CREATE, UPDATE, DELETE = "+", "~", "-"


class Change(msgspec.Struct, frozen=True):
    """A change that is not made yet."""

    mark: str
    """`+`, `~` or `-`."""
    text: str
    event_name: str
    """IAM's or KMS's name of the operation that does the same."""
    parameters: Mapping[str, Any]
    """Members of that operation, for the record."""
    make: Callable[[Transaction], Awaitable[None]]
    account: str
    source: str = IAM
    resources: tuple[tuple[str, str, str], ...] = ()

    @property
    def line(self) -> str:
        """The change in the printed plan."""
        return f"{self.mark} {self.text}"
