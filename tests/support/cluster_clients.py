"""Clients of several nodes that use and change the same few keys, and record what they were answered, and when."""

from __future__ import annotations

import functools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError

from tests.support.clients import ACCOUNT
from tests.support.cluster_site import ServingNodes
from tests.support.daemon import Daemon
from tests.support.linear_models import (
    NONE,
    OPEN,
    SOME,
    Enables,
    Grants,
    KeyState,
    Looks,
    Points,
    PutsPolicy,
    Resolves,
    Revokes,
)
from tests.support.linearizability import Call, Effect, violations
from tests.support.polling import until
from tests.support.workload import RETRYABLE, seconds_until

PLAIN = b"a secret"
SHUT = "shut-"
KEYS, ALIASES = 3, 2
"""Of a set that is used between two faults."""
CLIENTS = 2
"""Of each node."""
Entries = tuple[tuple[str, Effect], ...]
"""Subjects, and the effect on each."""
DISABLED, DENIED, ABSENT, TAKEN = (
    "DisabledException",
    "AccessDeniedException",
    "NotFoundException",
    "AlreadyExistsException",
)


def policy_text(name: str, guest: str) -> str:
    """A key policy that leaves everything to the account, recognised by its `Id`; and lets the guest in, if `OPEN`."""
    root = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    statements = [{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}]
    if name.startswith(OPEN):
        statements.append({"Effect": "Allow", "Principal": {"AWS": guest}, "Action": "kms:Encrypt", "Resource": "*"})
    return json.dumps({"Version": "2012-10-17", "Id": name, "Statement": statements})


@dataclass
class Subjects:
    """Keys and aliases that are used between two faults: histories stay short, and so does the search in them."""

    keys: list[str]
    aliases: list[str]
    grants: dict[str, str] = field(default_factory=dict)
    """Id of the last grant that was made, by key."""


@dataclass(frozen=True)
class Attempt:
    """One call to be made."""

    run: Callable[[], dict[str, Any]]
    worked: Callable[[dict[str, Any]], Entries]
    refused: Mapping[str, Entries] = field(default_factory=dict)
    """Errors that may come, and what each shows."""
    unknown: Entries = ()
    """What may happen if there is no answer."""


class History:
    """Calls of all clients, by subject."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.initial: dict[str, Hashable] = {}
        self.answers: Counter[str] = Counter()
        """`ok`, and names of errors."""

    def add(self, entries: Entries, begun: float, ended: float | None, text: str) -> None:
        """Record one call."""
        for subject, effect in entries:
            self.calls[subject].append(Call(begun, ended, effect, text))

    def violations(self) -> list[str]:
        """What fits no linear order."""
        return violations([(self.initial[subject], calls) for subject, calls in self.calls.items()])


class NodeClient:
    """Client of one node, one call at a time."""

    def __init__(self, site: ServingNodes, node: Daemon, history: History, name: str) -> None:
        options: dict[str, Any] = {"connect_timeout": 2, "read_timeout": 30}
        self._history, self._guest, self._grantee, self._name = history, site.guest.arn, site.grantee.arn, name
        self.kms = node.client(**options)
        self.as_grantee = node.client(credentials=site.grantee, **options)
        self.as_guest = node.client(credentials=site.guest, **options)
        self._policies = 0

    def close(self) -> None:
        """End its connections."""
        for one in (self.kms, self.as_grantee, self.as_guest):
            one.close()

    def keys(self) -> set[str]:
        """All that the node lists."""
        found, pages = set[str](), self.kms.get_paginator("list_keys")
        seconds_until(lambda: found.update(one["KeyId"] for page in pages.paginate() for one in page["Keys"]), 60)
        return found

    def perform(self, attempt: Attempt, text: str = "") -> bool:
        """Make a call, and record it. True if the answer tells what happened. Raises what must not be answered."""
        begun, text = time.monotonic(), f"{self._name} {text or attempt.run.__name__}"
        try:
            answer = attempt.run()
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            self._history.answers[type(error).__name__] += 1
            return False  # nobody was there: nothing was sent
        except BotoCoreError as error:
            self._history.answers[type(error).__name__] += 1
            self._history.add(attempt.unknown, begun, None, f"{text}: {type(error).__name__}")
            return False
        except ClientError as error:
            ended, code = time.monotonic(), str(error.response["Error"]["Code"])
            self._history.answers[code] += 1
            if code in attempt.refused:
                self._history.add(attempt.refused[code], begun, ended, f"{text}: {code}")
                return True
            if code not in RETRYABLE:
                raise
            self._history.add(attempt.unknown, begun, None, f"{text}: {code}")
            return False
        self._history.answers["ok"] += 1
        self._history.add(attempt.worked(answer), begun, time.monotonic(), f"{text}: ok")
        return True

    # --- keys ---------------------------------------------------------------------------------------

    def encrypt(self, key: str) -> Attempt:
        """By the administrator, who may always."""
        used, refused = ((key, Looks(is_enabled=True)),), ((key, Looks(is_enabled=False)),)
        return Attempt(lambda: self.kms.encrypt(KeyId=key, Plaintext=PLAIN), lambda _: used, {DISABLED: refused})

    def encrypt_as_grantee(self, key: str) -> Attempt:
        """By the user who needs a grant."""
        return Attempt(
            lambda: self.as_grantee.encrypt(KeyId=key, Plaintext=PLAIN),
            lambda _: ((key, Looks(is_enabled=True, is_granted=True)),),
            {
                DENIED: ((key, Looks(is_granted=False)),),
                DISABLED: ((key, Looks(is_enabled=False, is_granted=True)),),
            },
        )

    def encrypt_as_guest(self, key: str) -> Attempt:
        """By the user who needs a key policy."""
        return Attempt(
            lambda: self.as_guest.encrypt(KeyId=key, Plaintext=PLAIN),
            lambda _: ((key, Looks(is_enabled=True, is_open=True)),),
            {DENIED: ((key, Looks(is_open=False)),), DISABLED: ((key, Looks(is_enabled=False, is_open=True)),)},
        )

    def describe(self, key: str) -> Attempt:
        """The state."""
        return Attempt(
            lambda: self.kms.describe_key(KeyId=key),
            lambda answer: ((key, Looks(is_enabled=answer["KeyMetadata"]["KeyState"] == "Enabled")),),
        )

    def get_policy(self, key: str) -> Attempt:
        """The policy's name."""
        return Attempt(
            lambda: self.kms.get_key_policy(KeyId=key),
            lambda answer: ((key, Looks(policy=json.loads(answer["Policy"])["Id"])),),
        )

    def enable(self, key: str) -> Attempt:
        """EnableKey."""
        effect = ((key, Enables(is_enabled=True)),)
        return Attempt(lambda: self.kms.enable_key(KeyId=key), lambda _: effect, unknown=effect)

    def disable(self, key: str) -> Attempt:
        """DisableKey."""
        effect = ((key, Enables(is_enabled=False)),)
        return Attempt(lambda: self.kms.disable_key(KeyId=key), lambda _: effect, unknown=effect)

    def put_policy(self, key: str, *, is_open: bool) -> Attempt:
        """A policy with a name that was never used."""
        self._policies += 1
        name = f"{OPEN if is_open else SHUT}{self._name}-{self._policies}"
        effect, text = ((key, PutsPolicy(name)),), policy_text(name, self._guest)
        return Attempt(lambda: self.kms.put_key_policy(KeyId=key, Policy=text), lambda _: effect, unknown=effect)

    def grant(self, key: str, grants: dict[str, str]) -> Attempt:
        """A grant to the grantee; of the same name each time, so that there is one at most."""

        def worked(answer: dict[str, Any]) -> Entries:
            grants[key] = answer["GrantId"]
            return ((key, Grants(answer["GrantId"])),)

        members = {"Name": "one", "GranteePrincipal": self._grantee, "Operations": ["Encrypt"]}
        return Attempt(
            lambda: self.kms.create_grant(KeyId=key, **members),
            worked,
            {DISABLED: ((key, Looks(is_enabled=False)),)},
            unknown=((key, Grants()),),
        )

    def revoke(self, key: str, grant: str) -> Attempt:
        """RevokeGrant."""
        effect = ((key, Revokes(grant)),)
        return Attempt(
            lambda: self.kms.revoke_grant(KeyId=key, GrantId=grant),
            lambda _: effect,
            {ABSENT: ((key, Looks(lacks=grant)),)},
            unknown=effect,
        )

    # --- aliases ------------------------------------------------------------------------------------

    def point(self, alias: str, target: str, *, creates: bool) -> Attempt:
        """CreateAlias or UpdateAlias."""
        effect, call = ((alias, Points(target, creates)),), self.kms.create_alias if creates else self.kms.update_alias
        refused = {TAKEN: ((alias, Resolves(SOME)),)} if creates else {ABSENT: ((alias, Resolves(NONE)),)}
        run = lambda: call(AliasName=alias, TargetKeyId=target)  # noqa: E731 (as in all attempts)
        return Attempt(run, lambda _: effect, refused, unknown=effect)

    def remove(self, alias: str) -> Attempt:
        """DeleteAlias."""
        effect, absent = ((alias, Points(NONE)),), {ABSENT: ((alias, Resolves(NONE)),)}
        return Attempt(lambda: self.kms.delete_alias(AliasName=alias), lambda _: effect, absent, unknown=effect)

    def resolve(self, alias: str) -> Attempt:
        """DescribeKey by the alias."""
        return Attempt(
            lambda: self.kms.describe_key(KeyId=alias),
            lambda answer: ((alias, Resolves(answer["KeyMetadata"]["KeyId"])),),
            {ABSENT: ((alias, Resolves(NONE)),)},
        )

    def encrypt_by_alias(self, alias: str) -> Attempt:
        """It shows the target, and the target's state."""

        def worked(answer: dict[str, Any]) -> Entries:
            key = answer["KeyId"].rpartition("/")[2]
            return ((alias, Resolves(key)), (key, Looks(is_enabled=True)))

        return Attempt(
            lambda: self.kms.encrypt(KeyId=alias, Plaintext=PLAIN),
            worked,
            {ABSENT: ((alias, Resolves(NONE)),), DISABLED: ((alias, Resolves(SOME)),)},
        )


class ClusterLoad:
    """Clients of all nodes, at work during the block."""

    def __init__(self, site: ServingNodes, chance: random.Random, pause: float = 0.1) -> None:
        """`pause` is the longest after an answer that tells nothing, in seconds.

        Where service is away for long, shorter ones leave more open than the checker can decide.
        """
        self._pause = pause
        self.history, self._site, self._sets = History(), site, list[Subjects]()
        self.created: list[str] = []
        """Keys whose creation was acknowledged."""
        self.creates = True
        """False: the clients create no further keys."""
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._counts: Counter[int] = Counter()
        """Answers that tell what happened, by client."""
        self.renew()
        self._threads = [
            threading.Thread(target=self._work, args=(number, node, random.Random(chance.random())))  # noqa: S311
            for number, node in enumerate(node for node in site.nodes for _ in range(CLIENTS))
        ]

    def renew(self) -> None:
        """Let the clients use keys that are new."""
        kms, made, keys = self._site.nodes[0].client(), len(self._sets), list[str]()
        policy = policy_text(f"{SHUT}0", self._site.guest.arn)
        for _ in range(KEYS):
            seconds_until(lambda: keys.append(kms.create_key(Policy=policy)["KeyMetadata"]["KeyId"]), 60)
        kms.close()
        aliases = [f"alias/{time.monotonic_ns()}-{made}-{number}" for number in range(ALIASES)]
        self.history.initial |= dict.fromkeys(keys, KeyState(policy=f"{SHUT}0")) | dict.fromkeys(aliases, NONE)
        self.created += keys
        self._sets.append(Subjects(keys, aliases))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(120)

    def more(self, answers: int, clients: Sequence[int] | None = None) -> None:
        """Wait until each client, or each of these, has had some more answers. Raises what one of them met."""
        before, wanted = self._counts.copy(), range(len(self._threads)) if clients is None else clients
        until(
            lambda: self._failure is not None or all(self._counts[one] >= before[one] + answers for one in wanted),
            otherwise=lambda: f"{[self._counts[one] - before[one] for one in wanted]} of {answers}",
        )
        self.require_no_failure()

    def require_no_failure(self) -> None:
        """Raise what a client met that is neither an answer nor its absence."""
        if self._failure is not None:
            raise AssertionError("a client met what must not be") from self._failure

    def _work(self, number: int, node: Daemon, chance: random.Random) -> None:
        client = NodeClient(self._site, node, self.history, f"{node.folder.name}/{number % CLIENTS}")
        try:
            while not self._ended.is_set():
                attempt, text = self._chosen(client, chance)
                if client.perform(attempt, text):
                    self._counts[number] += 1
                else:
                    self._ended.wait(chance.uniform(0.01, self._pause))
        except BaseException as error:  # noqa: BLE001 (raised by whoever waits)
            self._failure = error
        finally:
            client.close()

    def _chosen(self, client: NodeClient, chance: random.Random) -> tuple[Attempt, str]:
        present = self._sets[-1]
        key, alias = chance.choice(present.keys), chance.choice(present.aliases)
        grant, target = present.grants.get(key, ""), chance.choice(present.keys)
        looks = (
            *("encrypt", "encrypt", "encrypt_as_grantee", "encrypt_as_guest", "describe", "get_policy"),
            *("resolve", "encrypt_by_alias"),
        )
        changes = (
            *("enable", "enable", "disable", "open", "shut", "grant", "revoke" if grant else "grant"),
            *("create_alias", "update_alias", "remove"),
        )
        name = chance.choice(looks if chance.random() < 0.6 else changes)
        if self.creates and chance.random() < 0.01:
            return Attempt(client.kms.create_key, self._made), "create_key"
        match name:
            case "open" | "shut":
                attempt = client.put_policy(key, is_open=name == "open")
            case "grant":
                attempt = client.grant(key, present.grants)
            case "revoke":
                attempt = client.revoke(key, grant)
            case "create_alias" | "update_alias":
                attempt = client.point(alias, target, creates=name == "create_alias")
            case "resolve" | "encrypt_by_alias" | "remove":
                attempt = getattr(client, name)(alias)
            case _:
                attempt = getattr(client, name)(key)
        return attempt, name

    def _made(self, answer: dict[str, Any]) -> Entries:
        self.created.append(answer["KeyMetadata"]["KeyId"])
        return ()

    def look_at_all(self) -> None:
        """Add to the history what each node shows of each subject, and see that no key is missing."""
        for node in self._site.nodes:
            client = NodeClient(self._site, node, self.history, f"{node.folder.name}/last")
            for attempt in self._looks(client):
                until(functools.partial(client.perform, attempt, "look"))
            found = client.keys()
            assert set(self.created) <= found, f"{node.folder.name} misses {set(self.created) - found}"
            client.close()

    def _looks(self, client: NodeClient) -> Iterator[Attempt]:
        for subjects in self._sets:
            for key in subjects.keys:
                yield from (client.describe(key), client.get_policy(key), client.encrypt_as_grantee(key))
                yield from (client.encrypt_as_guest(key), client.encrypt(key))
            for alias in subjects.aliases:
                yield client.resolve(alias)
