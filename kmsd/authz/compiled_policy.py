"""Policies compiled for evaluation: the one place that says whether a statement applies to a request.

`kmsd.authz.evaluate` asks it for the decision, `kmsd.authz.explain` for the reasons.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kmsd.authz import policy_document, policy_elements
from kmsd.authz.compiled_condition import CompiledCondition
from kmsd.domain.policy import Effect, Policy, PolicyKind, Statement
from kmsd.domain.principal import PrincipalType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.authz.request_context import RequestContext
    from kmsd.domain.policy import Principals
    from kmsd.domain.principal import Caller

CACHED_CHARACTERS = 4 * 1024 * 1024
"""How much policy text stays compiled; compiled it takes about twelve times the room."""
CACHED_ACTIONS = 256
"""For how many actions a policy remembers which statements name them."""


class PrincipalMatch(IntEnum):
    """How a statement that allows reaches its caller; more is stronger."""

    NONE = 0
    ACCOUNT = 1
    """It names the caller's account: the account's identity policies then decide."""
    ENTITY = 2
    """It names the user or role; the policies of a session bound it."""
    EXACT = 3
    """It names this very session, or everyone; no identity or session policy bounds it."""


class PrincipalView:
    """The caller as statements see it."""

    __slots__ = ("accounts", "arn", "has_bound", "is_root", "is_service", "is_session", "names", "role_arn")

    def __init__(self, caller: Caller) -> None:
        self.arn = caller.arn
        self.role_arn = caller.role_arn
        self.is_service = caller.principal_type is PrincipalType.SERVICE
        self.is_root = caller.principal_type is PrincipalType.ACCOUNT
        self.is_session = caller.principal_type is PrincipalType.ASSUMED_ROLE
        self.has_bound = caller.session_policies is not None
        partition = caller.arn.split(":", 2)[1] if caller.arn.startswith("arn:") else "aws"
        # A service acts for an account and is nobody in it: account principals do not mean it.
        self.accounts = () if self.is_service else (caller.account, f"arn:{partition}:iam::{caller.account}:root")
        self.names = (self.arn, *self.accounts) if self.role_arn is None else (self.arn, self.role_arn, *self.accounts)


class CompiledPrincipals:
    """Principal or NotPrincipal of one statement."""

    __slots__ = ("_accounts", "_entities", "_services", "everyone", "excluded", "names")

    def __init__(self, principals: Principals, *, excluded: bool) -> None:
        self.everyone = principals.everyone
        self.excluded = excluded
        self._accounts = frozenset(principals.accounts)
        self._entities = frozenset(principals.entities)
        self._services = frozenset(principals.services)
        self.names = self._accounts | self._entities | self._services

    def match(self, principal_view: PrincipalView) -> PrincipalMatch:
        """How a statement that allows reaches `asker`."""
        if not self.excluded:
            return self._named(principal_view)
        if self.everyone or self._named(principal_view):
            return PrincipalMatch.NONE
        # Nothing documents that NotPrincipal names a session, so its session policies bound it.
        return PrincipalMatch.ENTITY

    def denies(self, principal_view: PrincipalView) -> bool:
        """Whether a statement that denies reaches `asker`."""
        return (
            not self._excepted(principal_view)
            if self.excluded
            else self._named(principal_view) is not PrincipalMatch.NONE
        )

    def _named(self, principal_view: PrincipalView) -> PrincipalMatch:
        if self.everyone:
            return PrincipalMatch.EXACT
        if principal_view.is_service:
            return PrincipalMatch.EXACT if principal_view.arn in self._services else PrincipalMatch.NONE
        if principal_view.arn in self._entities:
            # "Permissions granted directly to a session are not limited by an implicit deny in … a session policy";
            # an IAM user's ARN that stands for a session with policies of its own does not name that session.
            return (
                PrincipalMatch.EXACT
                if principal_view.is_session or not principal_view.has_bound
                else PrincipalMatch.ENTITY
            )
        if principal_view.role_arn is not None and principal_view.role_arn in self._entities:
            return PrincipalMatch.ENTITY
        if any(account in self._accounts for account in principal_view.accounts):
            # "The account principal represents the account and its administrators, including the account root user."
            return PrincipalMatch.EXACT if principal_view.is_root else PrincipalMatch.ACCOUNT
        return PrincipalMatch.NONE

    def _excepted(self, principal_view: PrincipalView) -> bool:
        # "When you use NotPrincipal with Deny, you must also specify the account ARN of the not-denied principal";
        # for a session, session, role and account are each looked for (IAM User Guide, NotPrincipal with Deny).
        if self.everyone:
            return True
        if principal_view.is_service:
            return principal_view.arn in self._services
        if not any(account in self._accounts for account in principal_view.accounts):
            return False
        levels = (
            ()
            if principal_view.is_root
            else (principal_view.arn,)
            if principal_view.role_arn is None
            else (principal_view.arn, principal_view.role_arn)
        )
        return all(level in self._entities for level in levels)


class CompiledStatement:
    """One statement."""

    __slots__ = (
        "_actions",
        "_resources",
        "_varies",
        "allows",
        "conditions",
        "effective",
        "source",
        "unconditional",
        "who",
    )

    def __init__(self, statement: Statement, policy: Policy) -> None:
        self.source = statement
        self.allows = statement.effect is Effect.ALLOW
        self.who = (
            None
            if statement.principals is None
            else CompiledPrincipals(statement.principals, excluded=statement.excludes_principals)
        )
        # "If the required Resource element is missing from a key policy statement, the policy statement has no
        # effect"; a trust policy has none and speaks of its role.
        self.effective = statement.actions is not None and (
            statement.resources is not None or policy.kind is PolicyKind.TRUST
        )
        self._actions = tuple(policy_elements.action(text) for text in statement.actions or ())
        self._resources = tuple(
            policy_elements.resource(text, variables=policy.has_variables)
            for text in (statement.resources if statement.resources is not None else ("*",))
        )
        self.conditions = tuple(
            CompiledCondition(condition, variables=policy.has_variables) for condition in statement.conditions
        )
        self._varies = any(pattern.varies for pattern in self._resources)
        self.unconditional = not self.conditions and not self._varies
        """Whether caller, action and resource alone decide if it applies."""

    def reaches(self, principal_view: PrincipalView) -> PrincipalMatch:
        """How it reaches `asker`, by its own effect's rules."""
        if self.who is None:
            return PrincipalMatch.EXACT
        if self.allows:
            return self.who.match(principal_view)
        return PrincipalMatch.EXACT if self.who.denies(principal_view) else PrincipalMatch.NONE

    def covers_action(self, action: str) -> bool:
        """Whether it is about `action`, given in lower case."""
        return any(pattern.matches(action) for pattern in self._actions) is not self.source.excludes_actions

    def may_cover(self, resource: str) -> bool:
        """Whether it is about `resource`, as far as that can be said before variables have values."""
        return self._varies or self.covers(resource, None)

    def covers(self, resource: str, request_context: RequestContext | None) -> bool:
        """Whether it is about `resource`.

        A pattern whose variable has no value matches nothing; with NotResource that would widen a statement that
        allows, which therefore does not apply.
        """
        matched = any(pattern.matches(resource, request_context) for pattern in self._resources)
        if not self.source.excludes_resources:
            return matched
        if (
            self.allows
            and request_context is not None
            and any(pattern.unresolved(request_context) for pattern in self._resources)
        ):
            return False
        return not matched

    def holds(self, resource: str, request_context: RequestContext) -> bool:
        """Whether resource and conditions fit, for a statement that fits caller and action and may fit the resource."""
        if self._varies and not self.covers(resource, request_context):
            return False
        for condition in self.conditions:  # a loop: this is on the path of every request  # noqa: SIM110
            if not condition.holds(request_context, allows=self.allows):
                return False
        return True


class CompiledPolicy:
    """A document, with its statements indexed by principal and by action."""

    __slots__ = ("_by_action", "_by_name", "_unnamed", "statements", "text")

    def __init__(self, text: str, policy: Policy) -> None:
        self.text = text
        self.statements = tuple(CompiledStatement(statement, policy) for statement in policy.statements)
        self._by_name: dict[str, list[int]] = {}
        unnamed = []
        for number, statement in enumerate(self.statements):
            if statement.who is None or statement.who.everyone or statement.who.excluded:
                unnamed.append(number)
                continue
            for name in statement.who.names:
                self._by_name.setdefault(name, []).append(number)
        self._unnamed = tuple(unnamed)
        self._by_action: dict[str, frozenset[int]] = {}

    def candidates(
        self, principal_view: PrincipalView, action: str, resource: str
    ) -> Iterator[tuple[CompiledStatement, PrincipalMatch]]:
        """The statements that fit caller and action (in lower case), and may fit `resource`; in document order."""
        numbers = set(self._unnamed)
        for name in principal_view.names:
            numbers.update(self._by_name.get(name, ()))
        for number in sorted(numbers & self._about(action)):
            statement = self.statements[number]
            reach = statement.reaches(principal_view)
            if reach and statement.may_cover(resource):
                yield statement, reach

    def _about(self, action: str) -> frozenset[int]:
        found = self._by_action.get(action)
        if found is None:
            if len(self._by_action) >= CACHED_ACTIONS:
                self._by_action.clear()
            found = self._by_action[action] = frozenset(
                number
                for number, statement in enumerate(self.statements)
                if statement.effective and statement.covers_action(action)
            )
        return found


class PolicyCache:
    """Compiled policies by kind and text.

    A compiled policy follows from its text alone, so an entry is never wrong. It ends when the texts held exceed
    `limit` characters: then all go, and `generation` counts up, which tells holders of what was made from them.
    """

    def __init__(self, limit: int = CACHED_CHARACTERS) -> None:
        self._limit = limit
        self._held = 0
        self._policies: dict[tuple[PolicyKind, str], CompiledPolicy] = {}
        self.generation = 0

    def get(self, text: str, kind: PolicyKind) -> CompiledPolicy:
        """The compiled policy. Raises `MalformedPolicyDocumentException`; such texts are not remembered."""
        found = self._policies.get((kind, text))
        if found is None:
            found = CompiledPolicy(text, policy_document.parse(text, kind=kind))
            if self._held + len(text) > self._limit and self._policies:
                self._policies.clear()
                self._held = 0
                self.generation += 1
            self._held += len(text)
            self._policies[kind, text] = found
        return found

    def interned(self, text: str, kind: PolicyKind) -> str:
        """The equal text that is kept here anyway, or `text` itself."""
        found = self._policies.get((kind, text))
        return text if found is None else found.text
