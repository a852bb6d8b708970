"""The tokens of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.material import TokenName
from kmsd.ports.token import Token, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.domain.material import Material


class Tokens(msgspec.Struct):
    """The tokens of a process, by the names that the store uses."""

    main: Token
    """Holds all keys."""
    imports: Token | None = None
    """Unwraps what `main` cannot, and rewraps it for `main`. Set later if it is unavailable at the start."""

    def of(self, material: Material) -> Token:
        """Return the token that holds a material. Raises `TokenUnavailable`."""
        return self.main if material.token is TokenName.MAIN else self[material.token]

    def __getitem__(self, name: TokenName) -> Token:
        """Return the token. Raises `TokenUnavailable` while the import token is unavailable or not configured."""
        token = self.main if name is TokenName.MAIN else self.imports
        if token is None:
            raise TokenUnavailable("the import token is not open")
        return token

    def __contains__(self, name: object) -> bool:
        """True if the token is open."""
        return name is TokenName.MAIN or (name is TokenName.IMPORT and self.imports is not None)

    def items(self) -> Iterator[tuple[TokenName, Token]]:
        """Iterate over the tokens that are open."""
        yield TokenName.MAIN, self.main
        if self.imports is not None:
            yield TokenName.IMPORT, self.imports
