"""Condition keys that the daemon provides, with their actions and the sources of their values.

This is their only declaration. Evaluation looks values up here, `kmsd.authz.new_policy` refuses a Deny on any other
key, and docs/condition-keys.md is generated from it. Sources: IAM User Guide, AWS global condition context keys; KMS
Developer Guide, AWS KMS condition keys; Service Authorization Reference.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from kmsd.authz import condition_values as values
from kmsd.authz import grants
from kmsd.authz.absent_condition_keys import NOT_PROVIDED
from kmsd.authz.circumstances import named
from kmsd.authz.wildcard import fold


class ConditionKey(msgspec.Struct, frozen=True):
    """A condition key that the daemon provides."""

    name: str
    """Name as AWS writes it. `${…}` at its end is a name that the request or the resource supplies."""
    value: values.Getter
    source: str
    """The origin of the value: a sentence for docs/condition-keys.md."""
    actions: frozenset[str] = frozenset()
    """The actions that have the key. Empty: every action whose request or resource has such a value."""
    members: tuple[str, ...] = ()
    """Members of requests that supply the value. Actions whose requests declare none of them do not have the key."""
    is_fixed: bool = False
    """True if it follows from the caller or the encryption context. Values given by hand cannot replace it."""

    @property
    def prefix(self) -> str | None:
        """The folded part before `${`; None for a key that is one name."""
        start, opening, _ = self.name.partition("${")
        return fold(start) if opening else None


def _kms(*operations: str) -> frozenset[str]:
    return frozenset(f"kms:{operation}" for operation in operations)


def _of_member(name: str, member: str, otherwise: str = "") -> ConditionKey:
    """Declare a key with the value of a member, which no request declares but those of its actions."""
    wire_name = "".join(part.capitalize() for part in member.split("_"))
    return ConditionKey(name, values.member(member), f"member {wire_name}{otherwise}", members=(member,))


_WITH_CONTEXT = _kms(*grants.WITH_CONTEXT)
_WITH_TAGS = _kms("CreateKey", "TagResource") | {"logs:CreateLogGroup", "logs:TagLogGroup", "logs:TagResource"}
_ASSUMING = frozenset({"sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"})
"""Actions of the requests that assume a role."""
_WITH_TAG_KEYS = _WITH_TAGS | {"kms:UntagResource", "logs:UntagLogGroup", "logs:UntagResource"}


_PRINCIPAL = (
    ConditionKey(
        "aws:PrincipalArn",
        values.of_person(lambda caller: caller.principal_arn),
        "ARN of user, role or root",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalAccount",
        values.of_person(lambda caller: caller.account),
        "account of user, role or root",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalTag/${TagKey}",
        lambda request, name: named(request.caller.tags, name),
        "tag of the session, else of the user or role, given by `--tag` when it is created",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalIsAWSService",
        values.of_caller(lambda caller: values.truth(values.is_service(caller))),
        "`true` where the log service uses a key for a log group, else `false`",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalServiceName",
        values.of_caller(lambda caller: caller.arn if values.is_service(caller) else None),
        "`logs.REGION.amazonaws.com` where the log service uses a key",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalServiceNamesList",
        values.of_caller(values.service_names),
        "the regional and the general name of the log service where it uses a key",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:PrincipalType",
        values.of_caller(lambda caller: caller.principal_type.value),
        "`User`, `AssumedRole`, `Account`, `Service`, `WebIdentityUser`",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:FederatedProvider",
        values.of_caller(lambda caller: caller.identity_provider or None),
        "ARN of the issuer of the web token that the session was issued for (docs/web-identity.md)",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:SourceIdentity",
        values.of_caller(lambda caller: caller.source_identity or None),
        "source identity of the session",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:userid",
        values.of_person(lambda caller: caller.principal_id or None),
        "unique id of the principal",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:username", values.of_person(lambda caller: caller.user_name), "name of the user; users only", is_fixed=True
    ),
    ConditionKey(
        "aws:TokenIssueTime",
        values.of_caller(lambda caller: None if caller.issued_at is None else caller.issued_at.isoformat()),
        "when the temporary credentials were issued",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:MultiFactorAuthPresent",
        values.of_caller(lambda caller: None if caller.issued_at is None else "false"),
        "`false` with temporary credentials: there are no MFA devices",
        is_fixed=True,
    ),
    ConditionKey(
        "kms:CallerAccount", values.of_caller(lambda caller: caller.account), "account of the caller", is_fixed=True
    ),
)

_REQUEST = (
    ConditionKey(
        "aws:SourceIp", values.circumstance("address"), "address of the client; none for a Unix socket or a service"
    ),
    ConditionKey("aws:UserAgent", values.circumstance("user_agent"), "header User-Agent"),
    ConditionKey(
        "aws:SecureTransport",
        lambda request, _: values.truth(request.circumstances.is_secure),
        "`true` for TLS and for the log service, which crosses no network; `false` for plain HTTP and Unix sockets",
    ),
    ConditionKey("aws:CurrentTime", values.current_time, "time of the request"),
    ConditionKey("aws:EpochTime", values.epoch_time, "time of the request, in seconds since 1970"),
    ConditionKey("aws:RequestedRegion", values.circumstance("region"), "the configured region"),
    ConditionKey(
        "aws:ViaAWSService",
        lambda *_: "false",
        "`false`: no service of the daemon acts with a caller's credentials; the log service acts with its own name",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:SourceArn",
        values.circumstance("source_arn"),
        "ARN of the log group or query results, where the log service uses a key",
    ),
    ConditionKey(
        "aws:SourceAccount",
        values.of_caller(lambda caller: caller.account if values.is_service(caller) else None),
        "account of the log group, where the log service uses a key",
        is_fixed=True,
    ),
    ConditionKey(
        "aws:RequestTag/${TagKey}",
        lambda request, name: named(values.request_tags(request), name),
        "tag in the request, session tags included",
        _WITH_TAGS | _ASSUMING,
    ),
    ConditionKey("aws:TagKeys", values.tag_keys, "tag keys in the request", _WITH_TAG_KEYS | _ASSUMING),
    ConditionKey(
        "aws:ResourceAccount",
        lambda request, _: request.resource_account or None,
        "account of the resource; of the caller for actions without one",
    ),
    ConditionKey(
        "aws:ResourceTag/${TagKey}",
        values.resource_tag,
        "tag of the key, log group or role; in CreateKey and CreateLogGroup, tag in the request",
    ),
    ConditionKey(
        "iam:ResourceTag/${TagKey}",
        lambda request, name: named(request.circumstances.tags, name),
        "tag of the role",
        _ASSUMING,
    ),
    ConditionKey(
        "sts:TransitiveTagKeys",
        values.transitive_tag_keys,
        "names of session tags that go on to the next session of a chain",
        _ASSUMING,
    ),
    ConditionKey("sts:SourceIdentity", values.requested_source_identity, "member SourceIdentity", _ASSUMING),
    ConditionKey("sts:ExternalId", values.member("external_id"), "member ExternalId", frozenset({"sts:AssumeRole"})),
    ConditionKey(
        "sts:RoleSessionName",
        values.member("role_session_name"),
        "member RoleSessionName",
        _ASSUMING,
    ),
)

_SPEC = values.of_key(
    lambda key: key.spec.value, values.member("key_spec", "customer_master_key_spec"), "SYMMETRIC_DEFAULT"
)
_USAGE = values.of_key(lambda key: key.usage.value, values.member("key_usage"), "ENCRYPT_DECRYPT")

_KMS = (
    ConditionKey(
        "kms:BypassPolicyLockoutSafetyCheck",
        values.member("bypass_policy_lockout_safety_check"),
        "member BypassPolicyLockoutSafetyCheck, or `false`",
        _kms("CreateKey", "PutKeyPolicy"),
    ),
    ConditionKey("kms:CustomerMasterKeySpec", _SPEC, "the older name of kms:KeySpec"),
    ConditionKey("kms:CustomerMasterKeyUsage", _USAGE, "the older name of kms:KeyUsage"),
    _of_member("kms:DataKeyPairSpec", "key_pair_spec"),
    ConditionKey(
        "kms:EncryptionAlgorithm",
        values.encryption_algorithm,
        "member EncryptionAlgorithm, or `SYMMETRIC_DEFAULT`; of ReEncrypt, the one of the key that is authorised",
        _WITH_CONTEXT,
    ),
    ConditionKey(
        "kms:EncryptionContext:${EncryptionContextKey}",
        lambda request, name: named(request.encryption_context, name),
        "pair of the encryption context, or of the grant's constraint",
        _WITH_CONTEXT | _kms("CreateGrant", "RetireGrant"),
        is_fixed=True,
    ),
    ConditionKey(
        "kms:EncryptionContextKeys",
        lambda request, _: tuple(request.encryption_context),
        "names in the encryption context, or in the grant's constraint",
        _WITH_CONTEXT | _kms("CreateGrant", "RetireGrant"),
        is_fixed=True,
    ),
    _of_member("kms:ExpirationModel", "expiration_model", ", or its default"),
    ConditionKey(
        "kms:GrantConstraintType",
        values.constraint_type,
        "kind of the grant's constraint",
        _kms("CreateGrant", "RetireGrant"),
    ),
    ConditionKey(
        "kms:GrantIsForAWSResource",
        lambda *_: "false",
        "`false`: no service of the daemon makes grants",
        _kms("CreateGrant", "ListGrants", "RevokeGrant"),
    ),
    _of_member("kms:GrantOperations", "operations"),
    ConditionKey(
        "kms:GranteePrincipal", values.member("grantee_principal"), "member GranteePrincipal", _kms("CreateGrant")
    ),
    _of_member("kms:KeyAgreementAlgorithm", "key_agreement_algorithm"),
    ConditionKey(
        "kms:KeyOrigin",
        values.of_key(lambda key: key.origin.value, values.member("origin"), "AWS_KMS"),
        "origin of the key",
    ),
    ConditionKey("kms:KeySpec", _SPEC, "spec of the key"),
    ConditionKey("kms:KeyUsage", _USAGE, "usage of the key"),
    _of_member("kms:MacAlgorithm", "mac_algorithm"),
    _of_member("kms:MessageType", "message_type", ", or `RAW`"),
    ConditionKey(
        "kms:MultiRegion",
        values.of_key("false", values.member("multi_region"), "false"),
        "whether the key is a multi-Region key",
    ),
    ConditionKey(
        "kms:ReEncryptOnSameKey",
        lambda request, _: values.truth(request.circumstances.reencrypts_on_same_key),
        "whether source and destination are the same key",
        _kms("ReEncryptFrom", "ReEncryptTo"),
    ),
    ConditionKey("kms:RequestAlias", values.circumstance("alias"), "the alias with which the request names the key"),
    ConditionKey("kms:ResourceAliases", values.circumstance("aliases"), "the aliases of the key"),
    ConditionKey(
        "kms:RetiringPrincipal", values.member("retiring_principal"), "member RetiringPrincipal", _kms("CreateGrant")
    ),
    ConditionKey(
        "kms:RotationPeriodInDays",
        values.rotation_period,
        "member RotationPeriodInDays, or its default",
        _kms("EnableKeyRotation"),
    ),
    _of_member("kms:ScheduleKeyDeletionPendingWindowInDays", "pending_window_in_days", ", or its default"),
    _of_member("kms:SigningAlgorithm", "signing_algorithm"),
    ConditionKey("kms:ValidTo", values.valid_to, "member ValidTo", members=("valid_to",)),
    _of_member("kms:WrappingAlgorithm", "wrapping_algorithm"),
    _of_member("kms:WrappingKeySpec", "wrapping_key_spec"),
)

PROVIDED = (*_PRINCIPAL, *_REQUEST, *_KMS)

_BY_NAME = {fold(key.name): key for key in PROVIDED if key.prefix is None}
_BY_PREFIX = tuple((key.prefix, key) for key in PROVIDED if key.prefix is not None)


@lru_cache(maxsize=4096)  # names recur in policies; an entry is never stale, and the least recently used is evicted
def find(folded: str) -> tuple[ConditionKey, str] | None:
    """Return the key with this folded name, and the part after its prefix. None if the daemon never provides it."""
    key = _BY_NAME.get(folded)
    if key is not None:
        return key, ""
    for prefix, key in _BY_PREFIX:
        if folded.startswith(prefix):
            return key, folded.removeprefix(prefix)
    return None


def why_absent(folded: str) -> str:
    """Return the reason why a key for which `find` returns None is never provided."""
    for name, reason in NOT_PROVIDED.items():
        start, opening, _ = name.partition("${")
        if folded == fold(name) or (opening and folded.startswith(fold(start))):
            return reason
    return "AWS documents no such condition key for KMS, CloudWatch Logs or STS"


@lru_cache(maxsize=4096)  # by the policy's text; an entry is never stale, and the least recently used is evicted
def mentions(policy: str, *fragments: str) -> bool:
    """True if a policy may use a condition key that contains one of `fragments` (folded). False positives are harmless.

    The text is decoded and encoded again first. Otherwise a JSON escape could hide a condition key, and a Deny on it
    would never apply.
    """
    try:
        plain = msgspec.json.encode(msgspec.json.decode(policy)).decode().lower()
    except msgspec.DecodeError:
        return True
    return any(fragment in plain for fragment in fragments)


ABOUT_THE_RESOURCE = ("resourcealiases", "resourcetag/")
"""Fragments of the condition keys whose values come from the store: aliases and tags."""
ABOUT_THE_TIME = ("currenttime", "epochtime")
