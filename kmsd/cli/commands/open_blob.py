"""`kmsd open-blob`: decrypt a ciphertext blob with token, PIN and database only, without the daemon."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from kmsd.app import open_components
from kmsd.audit import KEY
from kmsd.cli.commands.operator_audit import administrative_act
from kmsd.cli.named_files import STANDARD_INPUT, InputFile
from kmsd.config.sections import Config
from kmsd.custody import encryption
from kmsd.domain import canonical_base64
from kmsd.domain import ciphertext_blob as blobs
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, NotFound, WrongUsage


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "open-blob", help="decrypt a ciphertext blob without the daemon"
    )
    command.add_argument(
        "blob",
        nargs="?",
        type=InputFile,
        default=STANDARD_INPUT,
        metavar="FILE",
        help="the blob in base64; default: standard input",
    )
    command.add_argument("--context", action="append", default=[], metavar="NAME=VALUE", help="encryption context")
    command.set_defaults(run=run)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Write the plaintext to standard output. For disaster recovery: key state and policies are not checked."""
    try:
        # Tools break base64 into lines and end it with a line break.
        blob = blobs.parse(canonical_base64.decode(b"".join(options.blob.read_bytes().split())))
    except (ValueError, blobs.MalformedBlob) as exc:
        raise InputRefused(f"{options.blob}: this is no ciphertext blob: {exc}") from exc
    context = _context(options.context)
    async with open_components(config, "cli") as components:
        key = await (await components.store.read()).key(blob.key_id)
        if key is None:
            raise NotFound(f"the database does not know the key {blob.key_id}")
        try:
            async with administrative_act(
                components,
                "OpenBlob",
                {"keyId": key.arn, "encryptionContext": context},
                account=key.account,
                resources=((key.arn, key.account, KEY),),
            ):
                opened = await encryption.decrypt(components.tokens, key, blob, context)
        except ServiceError as exc:
            reason = exc.message or exc.detail
            raise InputRefused(
                f"the blob cannot be opened (is the encryption context right?): {exc.code}: {reason}"
            ) from exc
    sys.stdout.buffer.write(opened.plaintext)
    return 0


def _context(pairs: list[str]) -> Mapping[str, str]:
    """Parse NAME=VALUE pairs. Raises `WrongUsage`."""
    if any("=" not in pair for pair in pairs):
        raise WrongUsage("an encryption context is written NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
