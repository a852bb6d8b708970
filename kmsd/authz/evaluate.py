"""The decision: may this caller do this, now?

1. A Deny that applies, in the resource's policy, the caller's identity policies or its session's, ends it.
2. Within the resource's account it is allowed by the resource's policy if that names the caller; or by a grant; or
   by an identity policy, if the resource's policy delegates to the account. Session policies bound all three,
   unless the session itself is named (or everyone is).
3. From another account the resource's policy and an identity policy must both allow it, within the session
   policies; or a grant must.
4. A service is allowed by the resource's policy, or by a grant, alone.

What depends only on policies, caller, action and resource is worked out once (a *case*) and remembered; conditions
and grants are looked at on every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz import denial_messages, grants
from kmsd.authz.compiled_policy import PolicyCache, PrincipalMatch, PrincipalView
from kmsd.authz.denial_messages import PolicyType
from kmsd.authz.request import Allowed, Denied
from kmsd.authz.request_context import RequestContext
from kmsd.domain.policy import PolicyKind
from kmsd.domain.principal import PrincipalType
from kmsd.errors import MalformedPolicyDocumentException

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kmsd.authz.compiled_policy import CompiledPolicy, CompiledStatement
    from kmsd.authz.request import AuthorizationRequest, Decision

MAX_PARTIAL_DECISIONS = 4096

# "Cross-account permission is effective only for the following operations … If you give a user in a different account
# permission for other operations, those permissions have no effect" (KMS Developer Guide, Allowing users in other
# accounts to use a KMS key).
CROSS_ACCOUNT_OPERATIONS = frozenset(
    f"kms:{operation}"
    for operation in grants.USABLE | {"GetKeyRotationStatus", "ListGrants", "RetireGrant", "RevokeGrant"}
)


class AllowStatements:
    """The statements of one layer that can allow a request."""

    __slots__ = ("conditional", "unconditional")

    def __init__(self) -> None:
        self.unconditional: str | None = None
        """The first that does, whatever the request's conditions."""
        self.conditional: list[tuple[str, CompiledStatement]] = []

    def add(self, label: str, statement: CompiledStatement) -> None:
        """Count `statement`, which fits caller and action, and may fit the resource."""
        if statement.unconditional:
            self.unconditional = self.unconditional or label
        else:
            self.conditional.append((label, statement))

    def by(self, resource: str, request_context: RequestContext | None) -> str | None:
        """What allows; None: nothing does. Without facts, only what does so under any conditions."""
        if self.unconditional is not None or request_context is None:
            return self.unconditional
        return next(
            (label for label, statement in self.conditional if statement.holds(resource, request_context)), None
        )


POLICY_TYPES = {
    PolicyKind.KEY: PolicyType.RESOURCE,
    PolicyKind.TRUST: PolicyType.TRUST,
    PolicyKind.IDENTITY: PolicyType.IDENTITY,
    PolicyKind.SESSION: PolicyType.SESSION,
}


class PartialDecision(msgspec.Struct):
    """All that policies, caller, action and resource decide by themselves."""

    policy_type: PolicyType
    """What the resource's policy is called."""
    same_account: bool
    principal_view: PrincipalView
    grantees: tuple[str, ...]
    operation: str | None
    own: AllowStatements
    entity: AllowStatements
    account: AllowStatements
    identity: AllowStatements
    session: AllowStatements | None
    """None: no session policy bounds the caller."""
    denials: list[tuple[PolicyType, str, CompiledStatement]]
    """Deny statements that apply if their conditions hold."""
    denied: Denied | None = None
    """A Deny without conditions applies, or a policy cannot be read."""
    unreadable: bool = False
    unconditional: Decision | None = None
    """The decision, where neither conditions nor (if it is a refusal) grants can change it."""


_policies = PolicyCache()


class PartialDecisionCache:
    """Cases by all that goes into them, the policies by their text: an entry is never wrong.

    All end when there are `MAX_PARTIAL_DECISIONS`, and when the compiled policies end, which they would keep alive.
    """

    __slots__ = ("generation", "known")

    def __init__(self) -> None:
        self.generation = 0
        self.known: dict[Hashable, PartialDecision] = {}

    def put(self, key: Hashable, partial: PartialDecision) -> None:
        """Keep `case`."""
        if len(self.known) >= MAX_PARTIAL_DECISIONS or _policies.generation != self.generation:
            self.known.clear()
            self.generation = _policies.generation
        self.known[key] = partial


_partial_decisions = PartialDecisionCache()


def authorize(request: AuthorizationRequest) -> Decision:
    """Whether `query` is allowed, and by what; or why not. Never raises: what cannot be read allows nothing."""
    partial = _partial_decision_of(request)
    settled = partial.unconditional
    if settled is not None and (not request.grants or partial.denied is not None or type(settled) is Allowed):
        return settled
    return decide(partial, request)


def is_unconditional(request: AuthorizationRequest, decision: Decision) -> bool:
    """Whether `decision` follows from policies, caller, action and resource alone, whatever else a request brings."""
    return decision is _partial_decision_of(request).unconditional


def _partial_decision_of(request: AuthorizationRequest) -> PartialDecision:
    caller = request.caller
    kind = caller.principal_type
    key = (
        request.resource,
        request.action,
        caller.arn,
        request.resource_policy,
        caller.identity_policies,
        caller.session_policies,
        caller.role_arn,
        caller.account,
        request.resource_account,
        # Enum members hash slowly; these are what a case distinguishes.
        kind is PrincipalType.ASSUMED_ROLE,
        kind is PrincipalType.SERVICE,
        kind is PrincipalType.ACCOUNT,
    )
    partial = _partial_decisions.known.get(key)
    if partial is None:
        partial = partially_evaluate(request)
        if not partial.unreadable:
            # The texts that the compiled policies hold, not the query's: equal texts are kept once.
            _partial_decisions.put((*key[:3], *_cached_texts(request, partial.policy_type), *key[6:]), partial)
    return partial


def decide(partial: PartialDecision, request: AuthorizationRequest) -> Decision:
    """The decision of a case for the conditions and grants of one request."""
    request_context = RequestContext(request)
    if (denied := explicit_denial(partial, request, request_context)) is not None:
        return denied
    by_policy = _weigh(partial, request, request_context)
    if isinstance(by_policy, Allowed) or not request.grants or partial.operation is None:
        return by_policy
    return _by_grant(partial, request, request_context) or by_policy


def explicit_denial(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext
) -> Denied | None:
    """The Deny that applies, or that must be supposed in a policy that cannot be read."""
    if partial.denied is not None:
        return partial.denied
    for policy_type, label, statement in partial.denials:
        if statement.holds(request.resource, request_context):
            return denial_messages.denied(request, policy_type, f"{label} denies")
    return None


def partially_evaluate(request: AuthorizationRequest) -> PartialDecision:
    """Work out the case of a query, with nothing remembered but the compiled policies."""
    caller = request.caller
    principal_view = PrincipalView(caller)
    trust = request.action.startswith("sts:")
    same_account = not principal_view.is_service and caller.account == request.resource_account
    partial = PartialDecision(
        policy_type=PolicyType.TRUST if trust else PolicyType.RESOURCE,
        same_account=same_account,
        principal_view=principal_view,
        grantees=caller.grantee_names,
        operation=grants.operation_of(request.action),
        own=AllowStatements(),
        entity=AllowStatements(),
        account=AllowStatements(),
        identity=AllowStatements(),
        session=None if caller.session_policies is None else AllowStatements(),
        denials=[],
    )
    if request.resource_policy is None:
        # Resources without a policy are their account's to give.
        partial.account.unconditional = "account" if same_account else None
    else:
        by_reach = {
            PrincipalMatch.EXACT: partial.own,
            PrincipalMatch.ENTITY: partial.entity,
            PrincipalMatch.ACCOUNT: partial.account,
        }
        kind = PolicyKind.TRUST if trust else PolicyKind.KEY
        _read(partial, request, (request.resource_policy,), kind, by_reach)
    if principal_view.is_root:
        # "… with the exception of the AWS account root user, which has full access": to what is its account's to give.
        partial.identity.unconditional = "account-root"
    if not principal_view.is_service:
        _read(partial, request, caller.identity_policies, PolicyKind.IDENTITY, {PrincipalMatch.EXACT: partial.identity})
    if partial.session is not None:
        _read(
            partial, request, caller.session_policies or (), PolicyKind.SESSION, {PrincipalMatch.EXACT: partial.session}
        )
    _without_conditions(partial, request)
    return partial


def _read(
    partial: PartialDecision,
    request: AuthorizationRequest,
    texts: tuple[str, ...],
    kind: PolicyKind,
    by_reach: dict[PrincipalMatch, AllowStatements],
) -> None:
    """Sort the statements of one kind of policy that can apply into the case."""
    policy_type = POLICY_TYPES[kind]
    for text in texts:
        policy = _compiled(partial, request, policy_type, text, kind)
        if policy is None:
            return
        for statement, reach in policy.candidates(partial.principal_view, request.action.lower(), request.resource):
            label = f"{kind.value}:{statement.source.label}"
            if statement.allows:
                by_reach[reach].add(label, statement)
            elif not statement.unconditional:
                partial.denials.append((policy_type, label, statement))
            elif partial.denied is None:
                partial.denied = denial_messages.denied(request, policy_type, f"{label} denies")


def _compiled(
    partial: PartialDecision, request: AuthorizationRequest, policy_type: PolicyType, text: str, kind: PolicyKind
) -> CompiledPolicy | None:
    try:
        return _policies.get(text, kind)
    except MalformedPolicyDocumentException as error:
        # Policies are parsed before they are stored. One that cannot be read may hold a Deny: nothing is allowed.
        partial.denied = denial_messages.not_allowed(
            request, policy_type, f"{kind.value} cannot be read: {error.message}"
        )
        partial.unreadable = True
        return None


def _weigh(partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None) -> Decision:
    """What the Allow statements come to, no Deny having applied. `facts=None`: under any conditions."""
    resource = request.resource
    if not partial.same_account and not partial.principal_view.is_service:
        return _weigh_across(partial, request, request_context)
    own = partial.own.by(resource, request_context)
    if own is not None:
        return Allowed(own)
    bounded = partial.entity.by(resource, request_context)
    delegated = partial.account.by(resource, request_context)
    if bounded is None and delegated is not None:
        bounded = partial.identity.by(resource, request_context)
        if bounded is None:
            return denial_messages.not_allowed(
                request, PolicyType.IDENTITY, f"{delegated} delegates, no identity-policy allows"
            )
    if bounded is None:
        return denial_messages.not_allowed(request, partial.policy_type, "no resource-based policy allows")
    if partial.session is not None and partial.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(request, PolicyType.SESSION, f"{bounded} allows, no session-policy does")
    return Allowed(bounded)


def _weigh_across(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext | None
) -> Decision:
    # "The request is allowed only if both evaluations return a decision of Allow" (Cross-account policy evaluation
    # logic): the exemption of sessions that are named themselves is for the same account.
    resource = request.resource
    theirs = (
        partial.own.by(resource, request_context)
        or partial.entity.by(resource, request_context)
        or partial.account.by(resource, request_context)
    )
    if theirs is None:
        return denial_messages.not_allowed(
            request, partial.policy_type, "no resource-based policy allows, from another account"
        )
    if request.action.startswith("kms:") and request.action not in CROSS_ACCOUNT_OPERATIONS:
        return denial_messages.not_allowed(request, partial.policy_type, "this action is not for other accounts")
    ours = partial.identity.by(resource, request_context)
    if ours is None:
        return denial_messages.not_allowed(request, PolicyType.IDENTITY, f"{theirs} allows, no identity-policy does")
    if partial.session is not None and partial.session.by(resource, request_context) is None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"{theirs} and {ours} allow, no session-policy does"
        )
    return Allowed(f"{theirs}+{ours}")


def _by_grant(
    partial: PartialDecision, request: AuthorizationRequest, request_context: RequestContext
) -> Decision | None:
    """What the grants come to; None: none of them fits."""
    operation = partial.operation or ""
    fits = grants.fitting(request.grants, partial.grantees, operation, request.encryption_context, request.resource)
    within = partial.session is None or partial.session.by(request.resource, request_context) is not None
    held, blocked = list[str](), None
    for grant in fits:
        # As in a key policy, a session is bounded unless it is itself the grantee, in its own account.
        if within or (
            partial.same_account
            and partial.principal_view.is_session
            and grant.grantee_principal == partial.principal_view.arn
        ):
            held.append(grant.grant_id)
            if operation != "CreateGrant":
                break  # only delegation needs to know them all
        else:
            blocked = grant.grant_id
    if held:
        return Allowed(f"grant:{held[0]}", tuple(held))
    if blocked is not None:
        return denial_messages.not_allowed(
            request, PolicyType.SESSION, f"grant:{blocked} allows, no session-policy does"
        )
    return None


def _without_conditions(partial: PartialDecision, request: AuthorizationRequest) -> None:
    """Decide the case, if the request's conditions cannot change it."""
    if partial.denied is not None:
        partial.unconditional = partial.denied
    elif not partial.denials:
        certain = _weigh(partial, request, None)
        layers = (partial.own, partial.entity, partial.account, partial.identity, partial.session)
        # More conditions met only allow more: an Allow without them stands; a refusal does if there are none.
        if isinstance(certain, Allowed) or not any(
            policy_type is not None and policy_type.conditional for policy_type in layers
        ):
            partial.unconditional = certain


def _cached_texts(
    request: AuthorizationRequest, policy_type: PolicyType
) -> tuple[str | None, tuple[str, ...], tuple[str, ...] | None]:
    """Resource, identity and session policies of the query, as the cache of compiled policies holds them."""
    caller, kind = request.caller, PolicyKind.TRUST if policy_type is PolicyType.TRUST else PolicyKind.KEY
    policy = request.resource_policy
    sessions = caller.session_policies
    return (
        None if policy is None else _policies.interned(policy, kind),
        tuple(_policies.interned(text, PolicyKind.IDENTITY) for text in caller.identity_policies),
        None if sessions is None else tuple(_policies.interned(text, PolicyKind.SESSION) for text in sessions),
    )
