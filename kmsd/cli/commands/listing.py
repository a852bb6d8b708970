"""Output of commands that list something: a line of text for people, or one JSON object a line for machines."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime


def add_json(command: argparse.ArgumentParser) -> None:
    """Declare the option."""
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def show(options: argparse.Namespace, text: str, **fields: object) -> None:
    """Print one entry: `text`, or `fields` as JSON. Times are shown in UTC."""
    print(json.dumps({name: _plain(value) for name, value in fields.items()}) if options.json else text)


def time_of(instant: datetime) -> str:
    """Return a time as `2026-11-30T20:15:00Z`."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return time_of(value)
    if isinstance(value, bytes):
        return value.hex()
    return value
