"""`kmsd open-blob`: open a ciphertext blob with token, PIN and database only, without the daemon."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from kmsd.app import open_rooms
from kmsd.audit import KEY
from kmsd.commands.acts import administrative_act
from kmsd.config import Config
from kmsd.custody import sealing
from kmsd.domain import blob as blobs
from kmsd.domain import canonical_base64
from kmsd.errors import ServiceError


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "open-blob", help="open a blob (base64 on standard input) without the daemon"
    )
    command.add_argument("--context", action="append", default=[], metavar="NAME=VALUE", help="encryption context")
    command.set_defaults(run=run)


async def run(config: Config, options: argparse.Namespace) -> int:
    """The plaintext on standard output. The operator's way in a disaster: key state and policies are not asked."""
    try:
        # Tools break the lines of base64, and end it with one.
        blob = blobs.parse(canonical_base64.decode(b"".join(sys.stdin.buffer.read().split())))
    except (ValueError, blobs.MalformedBlob) as exc:
        print(f"kmsd: this is no ciphertext blob: {exc}", file=sys.stderr)
        return 1
    context = dict(pair.split("=", 1) for pair in options.context)
    async with open_rooms(config, "cli") as rooms:
        key = await (await rooms.store.read()).key(blob.key_id)
        if key is None:
            print(f"kmsd: the database does not know the key {blob.key_id}", file=sys.stderr)
            return 1
        try:
            async with administrative_act(
                rooms,
                "OpenBlob",
                {"keyId": key.arn, "encryptionContext": context},
                account=key.account,
                resources=((key.arn, key.account, KEY),),
            ):
                opened = await sealing.unseal(rooms.token, key, blob, context)
        except ServiceError as exc:
            print(f"kmsd: {exc.code}: {exc.message or exc.detail}", file=sys.stderr)
            return 1
    sys.stdout.buffer.write(opened.plaintext)
    return 0
