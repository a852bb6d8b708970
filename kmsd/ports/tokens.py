"""The tokens of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import TokenName
from kmsd.ports.token_records import TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kmsd.domain.material import Material
    from kmsd.ports.token import Token

EVERYTHING = "*"
"""A token that serves every key spec that it offers."""


class Tokens(msgspec.Struct):
    """The tokens of a process, by the names that the store uses. Tokens but `main` may open later."""

    main: Token
    """Holds the daemon's own keys, and the keys that no further token serves."""
    others: dict[TokenName, Token] = {}
    """The import token and the further tokens, as far as they are open."""
    serves: Mapping[TokenName, tuple[str, ...]] = {}
    """Key specs, or `EVERYTHING`, that each further token serves, in the order of the configuration."""
    wraps: frozenset[TokenName] = frozenset()
    """Tokens whose new key material is wrapped under a domain key."""

    def of(self, material: Material) -> Token:
        """Return the token that holds a material. Raises `TokenUnavailable`."""
        return self.main if material.token == TokenName.MAIN else self[material.token]

    def __getitem__(self, name: TokenName) -> Token:
        """Return the token. Raises `TokenUnavailable` while it is unavailable or not configured."""
        token = self.main if name == TokenName.MAIN else self.others.get(name)
        if token is None:
            raise TokenUnavailable(f"the token {name!r} is not open")
        return token

    def __contains__(self, name: object) -> bool:
        """True if the token is open."""
        return name == TokenName.MAIN or name in self.others

    def items(self) -> Iterator[tuple[TokenName, Token]]:
        """Iterate over the tokens that are open."""
        yield TokenName.MAIN, self.main
        yield from self.others.items()

    @property
    def imports(self) -> Token | None:
        """The import token, if it is open."""
        return self.others.get(TokenName.IMPORT)

    def for_new(self, spec: KeySpec) -> list[TokenName]:
        """Return the tokens that may hold new keys of a spec, the preferred one first.

        Tokens that name the spec come before the main token, and those that serve everything after it.
        """
        named = [name for name, served in self.serves.items() if spec in served]
        any_spec = [name for name, served in self.serves.items() if EVERYTHING in served and name not in named]
        return [*named, TokenName.MAIN, *any_spec]

    def invalidate(self, object_id: bytes) -> None:
        """Evict every cached handle, unwrapped and derived key of an object or material, in every token."""
        for token in (self.main, *self.others.values()):
            token.invalidate(object_id)
