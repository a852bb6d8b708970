"""`kmsd key attest`, `csr` and `self-sign`: documents on a key pair, signed in the token."""

from __future__ import annotations

import argparse
import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any

from cryptography import x509

from kmsd.app import Components, audit_signer, open_components
from kmsd.audit import KEY
from kmsd.cli.commands.named_keys import key_named
from kmsd.cli.commands.operator_audit import KMSD, administrative_act
from kmsd.config.sections import Config
from kmsd.custody import attestation, certificates, key_material, signatures
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeyUsage, SigningAlgorithm
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, NotFound, WrongUsage

_DAYS = 3650


def add_to(key: Any, add_key: Callable[[argparse.ArgumentParser], None]) -> None:
    """Declare the commands below `kmsd key`."""
    attest = key.add_parser("attest", help="print public key and attributes as the token shows them, signed")
    attest.set_defaults(run=attest_key)
    csr = key.add_parser("csr", help="print a certificate request, signed by the key")
    csr.set_defaults(run=request_certificate)
    own = key.add_parser("self-sign", help="print a certificate of an authority, signed by the key itself")
    own.set_defaults(run=self_sign)
    for command in (csr, own):
        command.add_argument(
            "--subject", required=True, type=_subject, help="as RFC 4514 writes it: CN=Example CA,O=Example"
        )
    own.add_argument("--days", type=int, default=_DAYS, help="validity; default: %(default)s")
    for command in (attest, csr, own):
        add_key(command)


def _subject(text: str) -> x509.Name:
    try:
        return x509.Name.from_rfc4514_string(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text} is not a name as RFC 4514 writes it: {exc}") from exc


async def attest_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key attest`. The statement comes from the token, not from the database."""
    async with _acting(config, options.key, "AttestKey") as (components, key, material):
        signer = await audit_signer(components.store, components.token)
        if signer is None:
            raise NotFound("there is no audit key: run kmsd init")
        now = components.pipeline.clock.now()
        text = await attestation.statement(components.tokens.of(material), key, material, now)
        signature = await signer.sign(sha256(text.encode()).digest())
    print(f"{text}Signature: {base64.b64encode(signature).decode()}")
    return 0


async def request_certificate(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key csr`. Uses the key once."""
    async with _acting(config, options.key, "SignCertificateRequest") as (components, key, material):
        sign = _signing(components, key)
        made = await asyncio.to_thread(certificates.request, material.public_key, options.subject, sign)
    print(made.decode(), end="")
    return 0


async def self_sign(config: Config, options: argparse.Namespace) -> int:
    """`kmsd key self-sign`. Uses the key once."""
    if options.days < 1:
        raise WrongUsage("--days must be 1 or more")
    async with _acting(config, options.key, "SignCertificate") as (components, key, material):
        now, sign = components.pipeline.clock.now(), _signing(components, key)
        act = partial(certificates.self_signed, material.public_key, options.subject, sign, now=now, days=options.days)
        made = await asyncio.to_thread(act)
    print(made.decode(), end="")
    return 0


def _signing(components: Components, key: Key) -> certificates.SignMessage:
    """Return a function that signs on the event loop, for use in another thread. Raises `InputRefused`."""
    loop, now = asyncio.get_running_loop(), components.pipeline.clock.now()
    if key.usage is not KeyUsage.SIGN_VERIFY:
        raise InputRefused(f"{key.arn} cannot sign: its key usage is {key.usage}")
    try:
        Usable.ENABLED.refuse(key.state_at(now), key.origin, key.arn)
    except ServiceError as exc:
        raise InputRefused(exc.message) from exc

    def sign(algorithm: SigningAlgorithm, message: bytes) -> bytes:
        signed = signatures.SignedMessage(algorithm, message, is_digest=False)
        return asyncio.run_coroutine_threadsafe(signatures.sign(components.tokens, key, now, signed), loop).result()

    return sign


@asynccontextmanager
async def _acting(config: Config, name: str, event_name: str) -> AsyncIterator[tuple[Components, Key, Material]]:
    """Open the components for one recorded action on a key pair. Raises `NotFound`, `InputRefused`."""
    async with open_components(config, "cli") as components:
        now = components.pipeline.clock.now()
        key = await key_named(await components.store.read(), config, name, now)
        if not key.spec.is_asymmetric:
            raise InputRefused(f"{key.arn} has no public key: its key spec is {key.spec}")
        try:
            material = key_material.current(key, now)
        except ServiceError as exc:
            raise InputRefused(exc.message) from exc
        async with administrative_act(
            components,
            event_name,
            {"keyId": key.arn},
            source=KMSD,
            account=key.account,
            resources=((key.arn, key.account, KEY),),
        ):
            yield components, key, material
