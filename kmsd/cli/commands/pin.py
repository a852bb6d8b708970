"""`kmsd pin retry`: permit one more login with a PIN that the token refused."""

from __future__ import annotations

import argparse
from typing import Any

from kmsd.adapters.pkcs11 import refused_pin
from kmsd.app import file_name_of, refused_pin_file
from kmsd.config.sections import Config
from kmsd.domain.material import TokenName


def add_to(commands: Any) -> None:
    """Declare the command."""
    pin = commands.add_parser("pin", help="a PIN that the token refused").add_subparsers(dest="act", required=True)
    retry: argparse.ArgumentParser = pin.add_parser("retry", help="offer it once more, at the next start")
    retry.set_defaults(run=retry_pin, needs_pin=False)


async def retry_pin(config: Config, _: argparse.Namespace) -> int:
    """Forget the refusals. Needs neither token nor PIN. Raises OSError."""
    names = [file_name_of(name) for name in (TokenName.MAIN, TokenName.IMPORT, *config.other_tokens)]
    removed = [name for name in dict.fromkeys(names) if refused_pin.clear(refused_pin_file(config, name))]
    for name in removed:
        print(f"the PIN of {name.replace('-', ' ')} is offered once more at the next start")
    if not removed:
        print("no refused PIN is remembered: there was nothing to do")
    return 0
