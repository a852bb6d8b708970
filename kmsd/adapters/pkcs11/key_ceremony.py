"""Key ceremonies and proofs of one token, for commands on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.pkcs11 import ceremony, domain_key_transfer
from kmsd.adapters.pkcs11.settings import TokenSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from kmsd.custody.domain_key_transfer import Transfer


class KeyCeremony(msgspec.Struct, frozen=True):
    """Makes, hands on and proves domain keys of a token. Calls return when all is done, and take seconds at most.

    Apart from `prove`, the process must have no other login to the token. Each PIN is offered once. Every method raises
    `PinRefused`, `TokenUnavailable`, `CustodyNotEnforced` if the token does not enforce what domain keys promise, and
    `TokenError`; then no domain key is left.
    """

    settings: TokenSettings

    def create(self, so_pin: bytes, count: int) -> ceremony.Created:
        """Make `count` domain keys."""
        return ceremony.create_domain_keys(self.settings, so_pin, count)

    def send(self, so_pin: bytes, count: int, public_keys: Sequence[bytes]) -> Transfer:
        """Make `count` domain keys, and wrap each for each of these public keys of receiving tokens."""
        return domain_key_transfer.send_domain_keys(self.settings, so_pin, count, public_keys)

    def receiver(self, so_pin: bytes) -> AbstractContextManager[domain_key_transfer.Receiver]:
        """Make a key pair for one transfer, which ends with the block."""
        return domain_key_transfer.receiver(self.settings, so_pin)

    def prove(self, domain_key_id: bytes, binding_key: bytes) -> None:
        """Prove that the token enforces what the domain key promises, and that its binding key opens under it."""
        ceremony.prove_domain_key(self.settings, domain_key_id, binding_key)
