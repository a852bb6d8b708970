"""Aliases: names for keys, one namespace an account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Alias:
    """One alias."""

    account: str
    name: str
    """With its prefix `alias/`."""
    key_id: str
    created_at: datetime
    updated_at: datetime
