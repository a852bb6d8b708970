"""States of keys and aliases, and the effects of calls on them (`tests.support.linearizability`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

NONE, SOME = "", "?"
"""No grant, or no target; a grant whose id no client was given."""
OPEN = "open-"
"""Beginning of the names of key policies that allow a user to encrypt."""


@dataclass(frozen=True)
class KeyState:
    """One key."""

    is_enabled: bool = True
    grant: str = NONE
    """Id of the one grant."""
    policy: str = ""
    """Name of the key policy."""

    @property
    def is_open(self) -> bool:
        """True if the policy allows the user to encrypt."""
        return self.policy.startswith(OPEN)


@dataclass(frozen=True)
class Looks:
    """An answer that shows a part of a key's state; None: it does not show this part."""

    is_enabled: bool | None = None
    is_granted: bool | None = None
    is_open: bool | None = None
    policy: str | None = None
    lacks: str | None = None
    """Id of a grant that does not exist."""
    changes: bool = False

    def after(self, state: KeyState) -> KeyState | None:
        """The same state, if it has all of this."""
        wanted = (
            (self.is_enabled, state.is_enabled),
            (self.is_granted, state.grant != NONE),
            (self.is_open, state.is_open),
            (self.policy, state.policy),
        )
        fits = all(shown is None or shown == found for shown, found in wanted)
        return state if fits and (self.lacks is None or self.lacks != state.grant) else None


@dataclass(frozen=True)
class Enables:
    """EnableKey, or DisableKey: both work in either state."""

    is_enabled: bool
    changes: bool = True

    def after(self, state: KeyState) -> KeyState:
        """With the new state."""
        return replace(state, is_enabled=self.is_enabled)


@dataclass(frozen=True)
class PutsPolicy:
    """PutKeyPolicy."""

    policy: str
    changes: bool = True

    def after(self, state: KeyState) -> KeyState:
        """With the new policy."""
        return replace(state, policy=self.policy)


@dataclass(frozen=True)
class Grants:
    """CreateGrant, which answers with the grant that is there if it is the same."""

    grant: str = SOME
    changes: bool = True

    def after(self, state: KeyState) -> KeyState | None:
        """With the grant. It works on a key that is enabled."""
        if not state.is_enabled or (self.grant != SOME and state.grant not in (NONE, SOME, self.grant)):
            return None
        return state if self.grant == SOME != state.grant and state.grant != NONE else replace(state, grant=self.grant)


@dataclass(frozen=True)
class Revokes:
    """RevokeGrant."""

    grant: str
    changes: bool = True

    def after(self, state: KeyState) -> KeyState | None:
        """Without the grant, if it was there."""
        return replace(state, grant=NONE) if state.grant in (self.grant, SOME) else None


@dataclass(frozen=True)
class Points:
    """CreateAlias, UpdateAlias, DeleteAlias. The state is the target."""

    target: str
    """`NONE`: the alias is deleted."""
    creates: bool = False
    """True: it works if there is none; False: if there is one."""
    changes: bool = True

    def after(self, state: str) -> str | None:
        """The new target."""
        return self.target if (state == NONE) == self.creates else None


@dataclass(frozen=True)
class Resolves:
    """An answer that shows the target, or that there is none, or (`SOME`) that there is one."""

    target: str
    changes: bool = False

    def after(self, state: str) -> str | None:
        """The same target."""
        return state if self.target == state or (self.target == SOME and state != NONE) else None
