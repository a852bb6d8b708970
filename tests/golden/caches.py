"""The register of every cache: docs/caches.md is generated from it (scripts/operation-table).

`tests/golden/test_caches.py` finds every cache of a module by its syntax; one that is missing here fails the build.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

PAGE = Path(__file__).parents[2] / "docs" / "caches.md"


class Cache(msgspec.Struct, frozen=True):
    """One cache: where it is, what it maps to what, and why it is never wrong."""

    place: str
    """`module:name` below kmsd, or `module:Class.attribute`."""
    key: str
    holds: str
    bound: str
    ends: str
    """What makes an entry end, and why an older one is never used."""
    test: str = ""
    """The test that would fail."""


class Group(msgspec.Struct, frozen=True):
    """Caches of one purpose."""

    title: str
    text: str
    caches: tuple[Cache, ...]


VALUE = "never: it follows from its key alone; the least recently used is evicted"
ALL_GO = "never: it follows from its key alone; all are dropped at the bound"

GROUPS = (
    Group(
        "What may change: rows of the store",
        "DisableKey, RevokeGrant, a deleted user and a changed policy act by these. Before each request the process "
        "asks the database whether anything was committed, and drops what the table `change` names.",
        (
            Cache(
                "adapters/sql/cached_reader:CachedReader",
                "id or name of the row",
                "keys, grants, tags, aliases, access keys, roles, service keys, log groups, log streams",
                "20 000 of each kind, the oldest first",
                "when a committed change names it, by whichever process; all, when changes were trimmed unread",
                "contract/test_store.py::test_what_is_committed_is_read_at_once",
            ),
            Cache(
                "operations/admission:_allowed",
                "action, key id, access key id",
                "a decision that no condition can change, with the `Key` and `Caller` objects it is for",
                "10 000, then all go",
                "when the store returns another `Key` object or the caller is another object: the row changed",
                "api/test_authorisation.py",
            ),
            Cache(
                "audit/record:_encoded",
                "access key id",
                "`userIdentity` of a caller, encoded",
                "1024, then all go",
                "when the caller is another object",
                "unit/test_audit_golden.py",
            ),
            Cache(
                "authz/grants:_indexes",
                "identity of a tuple of grants, which the entry keeps alive",
                "an index of 16 or more grants",
                "64, then all go",
                "with its tuple: the store returns another one when a grant of the key changes",
                "unit/test_authz_caches.py",
            ),
        ),
    ),
    Group(
        "Policies",
        "Keyed by the whole text of the policies, so a changed policy is another key.",
        (
            Cache(
                "authz/evaluate:_policies",
                "kind and text of a policy",
                "the compiled policy",
                "4 MiB of text, then all go",
                ALL_GO,
                "unit/test_authz_caches.py",
            ),
            Cache(
                "authz/evaluate:_partial_decisions",
                "caller, action, resource and the texts of all policies",
                "the decision as far as it follows from policies alone",
                "4096, then all go; all go with the compiled policies",
                ALL_GO,
                "unit/test_authz_caches.py",
            ),
            Cache(
                "cloudwatch_logs/service_key_access:ServiceKeyAccess._decisions",
                "policy, key, origin, action, log group, account, aliases and tags",
                "the decision for the log service; none while the key has grants, or if the policy asks for the time",
                "1024, the oldest first",
                VALUE,
                "api/test_logs_keys.py",
            ),
            Cache(
                "cloudwatch_logs/service_key_access:ServiceKeyAccess._key_name",
                "an ARN",
                "its account and key id",
                "1024",
                VALUE,
            ),
            Cache("cloudwatch_logs/service_key_access:_service", "principal and account", "a caller", "1024", VALUE),
            Cache("authz/condition_keys:find", "folded name of a condition key", "its declaration", "4096", VALUE),
            Cache("authz/condition_keys:mentions", "text of a policy", "if it may ask for some keys", "4096", VALUE),
            Cache("authz/policy_elements:action", "an Action", "its pattern", "1024", VALUE),
            Cache("authz/policy_elements:resource", "a Resource", "its pattern", "1024", VALUE),
            Cache("authz/request_context:_fold_key", "name of a condition key", "its folded name", "1024", VALUE),
        ),
    ),
    Group(
        "Key material and secrets in memory",
        "All of it is in the memory of a worker, which no other process may read (docs/threat-model.md). Material of "
        "keys is not: the token keeps it.",
        (
            Cache(
                "adapters/pkcs11/xaes:DerivedKeys",
                "object id and nonce prefix",
                "handles of derived keys: session objects of the token, not their values",
                "`derived_keys` 4096, the least recently used first",
                "after 300 s; at once when any process destroys the object; with the login",
                "contract/test_token_derived_keys.py",
            ),
            Cache(
                "adapters/pkcs11/wrapped_keys:WrappedKeys",
                "material id",
                "the unwrapped key in the token, with the row that it is of; rows whose MAC was verified; domain keys",
                "2048 keys, the least recently used; 4096 rows; domain keys: as many as there are",
                "when another row is given, any process destroys the material, an hour has passed, the token has no "
                "memory, or the login ends",
                "contract/test_wrapped_material.py::test_held_keys_end",
            ),
            Cache(
                "adapters/pkcs11/wrapped_templates:packed_to_use",
                "kind of key",
                "the template of its unwrapped keys, as bytes for the module",
                "two for each kind of key",
                "never: it follows from its key alone",
            ),
            Cache(
                "adapters/pkcs11/wrapped_templates:_demands",
                "kind of key",
                "what an unwrapped key must show, and the last attributes that were found right",
                "one for each kind of key",
                "never: it follows from its key alone",
            ),
            Cache(
                "adapters/pkcs11/wrapping:_secret_template",
                "kind of key",
                "the template of a secret that is generated to be wrapped, as bytes for the module",
                "one for each kind of key",
                "never: it follows from its key alone",
            ),
            Cache(
                "adapters/pkcs11/wrap_calls:WrapCalls._tested",
                "domain key id",
                "kinds of keys that the token wraps under it",
                "one for each domain key",
                "with the process, as all that the self-tests find",
            ),
            Cache(
                "adapters/pkcs11/handle_cache:Handles",
                "object id",
                "the handle of a token object, and what is known of it",
                "the objects of the token",
                "when any process destroys the object; with the login",
                "contract/test_token_faults.py::test_one_object_removed_beneath",
            ),
            Cache(
                "adapters/pkcs11/module:Module._accepted_pins",
                "slot",
                "the PIN of the login, for others of this process that name the same token",
                "one for each slot",
                "with the login",
                "contract/test_token_start.py",
            ),
            Cache(
                "custody/credentials:CredentialStore._derived",
                "access key id, day, region and service",
                "sealed secret, and the SigV4 signing key derived from it",
                "10 000, the oldest first",
                "when the stored secret is another; keys of days that no request may have are evicted",
                "api/test_unauthenticated.py::test_requests_of_other_days_evict_no_signing_key",
            ),
            Cache(
                "custody/credentials:CredentialStore._sessions",
                "access key id and session token",
                "the opened session token",
                "10 000, the oldest first",
                "at the end of its session; its role and user are read for each request",
                "api/test_sts.py",
            ),
            Cache(
                "cloudwatch_logs/data_keys:DataKeys._sealing",
                "log group or account",
                "the data key for new events, in the clear",
                "one for each group that is written",
                "after 10 s or 64 MiB; at once when the customer's key is found unusable",
                "api/test_logs_keys_held.py",
            ),
            Cache(
                "cloudwatch_logs/data_keys:DataKeys._opening",
                "id of a data key",
                "a data key for reading, in the clear, and recently read events",
                "4096, the oldest first; events within 64 MiB",
                "after 10 s; every use asks first if the customer's key may be used",
                "api/test_logs_keys_held.py",
            ),
            Cache(
                "custody/message_counts:MessageCounts._left",
                "object id",
                "messages that may still be encrypted of those reserved in the store",
                "one for each AES-256-GCM object",
                "with the process: what is left is lost, never used twice",
                "api/test_message_counts.py",
            ),
        ),
    ),
    Group(
        "Parsed text",
        "Clients repeat their headers and names. An entry follows from the text alone.",
        (
            Cache("wire/endpoint:_source", "peer, User-Agent, Host, TLS", "the client of a call", "1024", VALUE),
            Cache(
                "wire/sigv4/header_plan:first_positions", "names of headers, up to 64", "their places", "1024", VALUE
            ),
            Cache("wire/sigv4/header_plan:header_layout", "names of headers", "their places, checked", "1024", VALUE),
            Cache("wire/sigv4/header_plan:header_plan", "names and SigV4 fields", "the canonical form", "1024", VALUE),
            Cache("wire/sigv4/forms:authorization", "Authorization header", "its fields", "1024", VALUE),
            Cache("wire/sigv4/forms:instant", "X-Amz-Date", "the time", "64", VALUE),
            Cache("wire/sigv4/forms:http_date", "Date", "the time", "64", VALUE),
            Cache("custody/public_keys:load", "SubjectPublicKeyInfo of a key", "the decoded key", "1024", VALUE),
            Cache("domain/material:key_material_id", "material id", "KeyMaterialId", "4096", VALUE),
            Cache("audit/calls:_shown_source", "client of a call", "members of the record", "1024", VALUE),
            Cache("audit/record:service_principal", "name of a service", "its principal", "64", VALUE),
            Cache("audit/record:_tls_details", "TLS version, cipher, Host", "`tlsDetails`", "1024", VALUE),
            Cache("audit/record:resources_of", "ARNs of a record", "`resources`", "1024", VALUE),
            Cache("adapters/audit_trail/follower:_millis", "time of a record", "milliseconds", "64", VALUE),
        ),
    ),
    Group(
        "Files",
        "What a process keeps open or has read of files that only grow.",
        (
            Cache(
                "adapters/sqlite/change_detector:_open",
                "name of the database",
                "the mapped WAL index",
                "one for each database",
                "when the last reader of it is closed",
                "contract/test_store.py",
            ),
            Cache(
                "cloudwatch_logs/segments/catalog:Frames._cached",
                "log group and segment",
                "the index of a finished segment",
                "200 000 entries, the least recently used first",
                "never: a finished segment does not change; compaction writes another",
                "unit/test_logs_segments.py",
            ),
        ),
    ),
    Group(
        "Fixed at start",
        "Derived from the program itself, or drawn ahead.",
        (
            Cache("audit/redaction:shown_members", "a shape", "members that a record shows", "all shapes", "never"),
            Cache("audit/redaction:_plan", "a shape", "how a record shows it", "all shapes", "never"),
            Cache("wire/protocols/json:_plan", "a shape", "its decoder and checks", "all shapes", "never"),
            Cache("wire/protocols/json:members", "a shape", "its members", "all shapes", "never"),
            Cache("wire/protocols/json:_drop_empty", "a shape", "how empty members are dropped", "all shapes", "never"),
            Cache("adapters/postgres/access:numbered", "a statement", "the same with `$1` for `?`", "1024", VALUE),
            Cache("adapters/pkcs11/cryptoki_types:_attributes", "a length", "a C type", "256", VALUE),
            Cache("adapters/pkcs11/cryptoki_types:_bytes", "a length", "a C type", "256", VALUE),
            Cache(
                "adapters/pkcs11/rsa_test_pair:published_key",
                "none",
                "the RSA key of self-tests, which is published and protects nothing",
                "one",
                "never",
            ),
            Cache("config/settings:_fetched", "name of a credential", "a memory file", "the credentials", "never"),
            Cache("wire/http/messages:_random", "none", "unused random request ids", "256", "each is used once"),
        ),
    ),
)


def page() -> str:
    """Return docs/caches.md."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Caches"
    yield ""
    yield "Every cache of the daemon, and when an entry ends. This page is generated; a cache that is not in it fails"
    yield "the tests. A revoked permission takes effect with the next request of any process: the first table says why."
    for group in GROUPS:
        yield ""
        yield f"## {group.title}"
        yield ""
        yield group.text
        yield ""
        yield "| cache | key | holds | bound | an entry ends | test |"
        yield "|---|---|---|---|---|---|"
        for one in group.caches:
            test = f"`{one.test}`" if one.test else ""
            yield f"| `{one.place}` | {one.key} | {one.holds} | {one.bound} | {one.ends} | {test} |"
    yield ""
