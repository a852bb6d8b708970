"""`kmsd domain-key create`, `transfer` and `accept`: key ceremonies, in which the security officer makes domain keys.

A process that is logged in as the user cannot log the security officer in. So none of these commands keeps the token
open: the records of the audit trail are written before and after the ceremony, each with a login of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256
from typing import Any

from kmsd.app import SystemClock, key_ceremony, open_components, set_module_environment
from kmsd.cli.awaited_file import AwaitedFile
from kmsd.cli.commands.ceremony_input import add_so_pin, is_confirmed, so_pin, typed_code
from kmsd.cli.commands.domain_key_survey import token_named
from kmsd.cli.commands.operator_audit import Act, recorded_act
from kmsd.cli.named_files import InputFile, SecretFile
from kmsd.config.sections import Config
from kmsd.custody.domain_key_transfer import (
    NotSuchFile,
    Transfer,
    TransferRequest,
    confirmation_code,
    decoded_request,
    decoded_transfer,
    encoded_request,
    transfer_text,
)
from kmsd.database import open_store
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.material import TokenName
from kmsd.exit_codes import InputRefused, TryLater, WrongUsage

MAX_COUNT = 64
"""Domain keys of one ceremony. HSMs with little room hold 256 objects."""
_TIMEOUT_MINUTES = 240
WHY_NEW = (
    "A domain key that is locked into its token can never leave it. So existing domain keys cannot be handed on: "
    "`transfer` makes new ones, and wraps them for the other tokens before it locks them."
)


def add_to(domain_key: Any) -> None:
    """Declare the commands below `kmsd domain-key`."""
    create = domain_key.add_parser("create", help="make domain keys; the first becomes current if there is none")
    _add_count(create)
    create.set_defaults(run=create_domain_keys)
    transfer = domain_key.add_parser("transfer", help="make domain keys that further tokens have, too", epilog=WHY_NEW)
    transfer.add_argument(
        "--request", action="append", required=True, type=InputFile, metavar="FILE", help="of `accept`; can be repeated"
    )
    transfer.add_argument(
        "--code",
        action="append",
        default=[],
        help="confirmation code of each request, in their order; else it is asked",
    )
    transfer.add_argument("--output", required=True, type=SecretFile, metavar="FILE", help="the transfer; a new file")
    _add_count(transfer)
    transfer.set_defaults(run=transfer_domain_keys)
    accept = domain_key.add_parser("accept", help="take over the domain keys of another token", epilog=WHY_NEW)
    accept.add_argument("--request", required=True, type=SecretFile, metavar="FILE", help="for `transfer`; a new file")
    accept.add_argument(
        "--transfer", required=True, type=AwaitedFile, metavar="FILE", help="waits until this file is there"
    )
    accept.add_argument(
        "--timeout", type=int, default=_TIMEOUT_MINUTES, metavar="MINUTES", help="of waiting; default: %(default)s"
    )
    accept.set_defaults(run=accept_domain_keys, beforehand=_await_transfer)
    for command in (create, transfer, accept):
        add_token(command)
        add_so_pin(command)


def add_token(command: argparse.ArgumentParser) -> None:
    """Add the option for the token."""
    command.add_argument(
        "--token", default=TokenName.MAIN, metavar="NAME", help="a token of [[tokens]]; default: the main one"
    )


def _add_count(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=_count, default=1, help="of domain keys; default: %(default)s")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MAX_COUNT}")
    return int(text)


async def create_domain_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key create`."""
    name, pin = token_named(config, options.token), so_pin(options)
    async with _recorded(config, "CreateDomainKeys", {"token": str(name), "count": options.count}) as act:
        created = key_ceremony(config, name).create(pin, options.count)
        made = {one.domain_key_id: one.binding_key for one in created.domain_keys}
        rows = await _inserted(config, name, made, first_is_current=True)
        act.elements = _elements(rows)
    _report(rows)
    return 0


async def transfer_domain_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key transfer`. The file is written before the rows: a row's key has certainly been handed on."""
    name, requests = token_named(config, options.token), _confirmed_requests(options)
    pin, output = so_pin(options), options.output
    parameters = {"token": str(name), "count": options.count, "recipients": [_recipient(one) for one in requests]}
    async with _recorded(config, "TransferDomainKeys", parameters) as act:
        transfer = key_ceremony(config, name).send(pin, options.count, [one.public_key for one in requests])
        made = {one.domain_key_id: one.binding_key for one in transfer.domain_keys}
        try:
            output.write(transfer_text(transfer))
        except OSError as exc:
            left = ", ".join(one.hex() for one in made)
            raise TryLater(f"{output}: {exc.strerror}; the token has domain keys that nothing uses: {left}") from exc
        rows = await _inserted(config, name, made, first_is_current=False)
        act.elements = {**_elements(rows), "code": transfer.code}
    _report(rows)
    print(f"{output} is for: kmsd domain-key accept. Confirmation code of the transfer: {transfer.code}")
    print("Rotate when every recipient has accepted.")
    return 0


def _confirmed_requests(options: argparse.Namespace) -> list[TransferRequest]:
    """Return the requests, whose codes people have compared. Raises `CommandError`."""
    files: list[InputFile] = options.request
    codes: list[str] = options.code
    if codes and len(codes) != len(files):
        raise WrongUsage(f"there are {len(files)} requests and {len(codes)} codes")
    requests = [_request(file) for file in files]
    if len({one.public_key for one in requests}) != len(requests):
        raise WrongUsage("two requests are the same")
    for place, (file, request) in enumerate(zip(files, requests, strict=True)):
        if codes:
            if not is_confirmed(codes[place], request.code, str(file)):
                raise InputRefused(f"{file} is not the request that was confirmed: somebody may have exchanged it")
            continue
        question = f"Confirmation code that `kmsd domain-key accept` shows where {file} was made:"
        while not is_confirmed(typed_code(question), request.code, str(file)):
            pass
    return requests


def _request(file: InputFile) -> TransferRequest:
    try:
        return decoded_request(file.read_bytes())
    except NotSuchFile as exc:
        raise InputRefused(f"{file}: {exc}") from exc


def _recipient(request: TransferRequest) -> dict[str, str]:
    return {"tokenSerial": request.token_serial, "publicKeySha256": sha256(request.public_key).hexdigest()}


def _await_transfer(_: Config, options: argparse.Namespace) -> None:
    options.transfer.begin()


async def accept_domain_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd domain-key accept`. The process lives until the transfer is there: its key pair ends with it."""
    name, pin = token_named(config, options.token), so_pin(options)
    async with _recorded(config, "AcceptDomainKeys", {"token": str(name)}) as act:
        with key_ceremony(config, name).receiver(pin) as receiving:
            options.request.write(encoded_request(receiving.public_key, receiving.serial))
            print(f"{options.request} is for: kmsd domain-key transfer, before this process ends")
            print(f"Confirmation code of the request: {confirmation_code(receiving.public_key)}", flush=True)
            transfer = await _arrived(options.transfer, receiving.public_key, options.timeout)
            question = "Confirmation code that `kmsd domain-key transfer` shows:"
            while not is_confirmed(typed_code(question), transfer.code, str(options.transfer)):
                pass
            accepted = receiving.accept(transfer)
        made = {one.domain_key_id: one.binding_key for one in accepted}
        rows = await _inserted(config, name, made, first_is_current=False)
        act.elements = {**_elements(rows), "code": transfer.code, "senderSerial": transfer.token_serial}
    _report(rows)
    return 0


async def _arrived(file: AwaitedFile, public_key: bytes, minutes: int) -> Transfer:
    """Wait for a whole transfer for this public key. Raises `InputRefused`."""
    reason = "it did not appear"
    try:
        async with asyncio.timeout(60 * minutes), aclosing(file.contents()) as contents:
            async for content in contents:
                try:
                    transfer = decoded_transfer(content)
                except NotSuchFile as exc:
                    reason = str(exc)
                else:
                    if transfer.wrapped_for(public_key):
                        return transfer
                    reason = "it was made for other requests"
                print(f"kmsd: {file} is not taken: {reason}. Still waiting", file=sys.stderr, flush=True)
    except TimeoutError as exc:
        raise InputRefused(f"{file}: {reason}, within {minutes} minutes") from exc
    raise InputRefused(f"{file}: {reason}")


class _Reopened:
    """An audit trail that is opened, with the token that signs it, for each record."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def append(self, record: bytes) -> None:
        async with open_components(self._config, "cli") as components:
            await components.sink.append(record)


@asynccontextmanager
async def _recorded(config: Config, event_name: str, parameters: Mapping[str, Any]) -> AsyncIterator[Act]:
    """Record an action without a login that lasts. The intent is durable before the block begins."""
    set_module_environment(config)
    async with recorded_act(config, _Reopened(config), SystemClock(), event_name, parameters) as act:
        yield act


async def _inserted(
    config: Config, name: TokenName, made: Mapping[bytes, bytes], *, first_is_current: bool
) -> list[DomainKey]:
    """Insert rows of new domain keys, given by id and binding key. Return the rows.

    A row that exists is left as it is: the database of a recipient may be a copy of the sender's.
    """
    now = SystemClock().now()
    async with open_store(config) as store, store.write() as transaction:
        known = {row.domain_key_id: row for row in await transaction.domain_keys()}
        becomes_current = first_is_current and await transaction.current_domain_key(name) is None
        rows = []
        for domain_key_id, binding_key in made.items():
            state = DomainKeyState.CURRENT if becomes_current else DomainKeyState.NEXT
            row = known.get(domain_key_id) or DomainKey(domain_key_id, name, state, binding_key, now, now)
            if domain_key_id not in known:
                await transaction.insert_domain_key(row)
                becomes_current = False
            await transaction.set_domain_key_held(domain_key_id, is_held=True)
            rows.append(row)
    return rows


def _elements(rows: Sequence[DomainKey]) -> dict[str, Any]:
    return {"domainKeys": [{"domainKeyId": row.domain_key_id.hex(), "state": row.state.value} for row in rows]}


def _report(rows: Sequence[DomainKey]) -> None:
    for row in rows:
        print(f"domain key {row.domain_key_id.hex()} in token {row.token}: {row.state}")
