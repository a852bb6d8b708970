"""A mixed load whose every call is entered in a book, to hold the daemon's answers against after a crash.

Each actor works on keys of its own, one call at a time. A call that was acknowledged counts as done, one that was
refused as not done, and the one under way when the daemon died may be either: whole, or not at all.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon
from tests.support.key_import import external_key, parameters, state_of
from tests.support.load_actors import Actor, Stopped
from tests.support.log_service import messages, millis

MAX_ROTATIONS = 4
MAX_BLOBS = 5
MAX_KEYS = 3
"""Of an actor at a time; older ones are left alone, and looked at in the end."""


def policy_of(mark: str) -> str:
    """A key policy that leaves everything to the account, recognised by its `Sid`."""
    root = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    statement = {"Sid": mark, "Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@dataclass(frozen=True)
class Shown:
    """What a key shows of itself."""

    state: str = "Enabled"
    rotations: int = 0
    policy: str = "none"
    description: str = ""
    aliases: frozenset[str] = frozenset()
    grants: frozenset[str] = frozenset()


def shown(kms: Any, key_id: str) -> tuple[Shown, dict[str, str]]:
    """The key as the daemon tells it, and the ids of its grants by name."""
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    rotations = len(kms.list_key_rotations(KeyId=key_id)["Rotations"])
    policy = json.loads(kms.get_key_policy(KeyId=key_id)["Policy"])["Statement"][0]["Sid"]
    aliases = frozenset(alias["AliasName"] for alias in kms.list_aliases(KeyId=key_id)["Aliases"])
    ids = {grant["Name"]: grant["GrantId"] for grant in kms.list_grants(KeyId=key_id)["Grants"]}
    state = metadata["KeyState"]
    return Shown(state, rotations, policy, metadata["Description"], aliases, frozenset(ids)), ids


@dataclass
class KeyBook:
    """What is known of one key."""

    key_id: str
    now: Shown
    doubt: Shown | None = None
    """What it is if the call that got no answer was done."""
    grant_ids: dict[str, str] = field(default_factory=dict)
    blobs: list[tuple[bytes, bytes]] = field(default_factory=list)

    def settle(self, kms: Any) -> None:
        """Hold the daemon's answers against the book. Raises AssertionError if they differ."""
        found, self.grant_ids = shown(kms, self.key_id)
        expected = (self.now,) if self.doubt is None else (self.now, self.doubt)
        assert found in expected, f"{self.key_id}: {found} is none of {expected}"
        self.now, self.doubt = found, None
        if found.state == "Enabled":
            for blob, text in self.blobs:
                assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == text, self.key_id
            kms.encrypt(KeyId=self.key_id, Plaintext=b"still of use")


@dataclass
class KeyActor(Actor):
    """Makes keys and changes everything about them."""

    keys: list[KeyBook] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    """Descriptions of keys whose making got no answer."""
    count: int = 0

    def mark(self) -> str:
        """A name that was never used."""
        self.count += 1
        return f"{self.name}x{self.count}"

    def step(self) -> None:
        """One act on a key, or a new key."""
        active = self.keys[-MAX_KEYS:]
        if not active or self.chance.random() < 0.015:
            self.create()
            return
        book = self.chance.choice(active)
        acts = {
            "Enabled": (
                *([self.encrypt] * 6), *([self.decrypt] * 6), self.describe_anew, self.describe_anew, self.put_policy,
                self.alias, self.alias, self.grant, self.grant, self.rotate, self.disable, self.doom, self.forbidden,
            ),
            "Disabled": (self.enable, self.unusable, self.forbidden),
            "PendingDeletion": (self.rescue, self.unusable),
        }  # fmt: skip
        self.chance.choice(acts[book.now.state])(book)

    def create(self) -> None:
        """A new key."""
        mark = self.mark()
        self.doubtful.append(mark)
        answer = self.call(self.kms.create_key, Description=mark, Policy=policy_of(mark))
        self.doubtful.remove(mark)
        self.keys.append(KeyBook(answer["KeyMetadata"]["KeyId"], Shown(policy=mark, description=mark)))

    def change(self, book: KeyBook, after: Shown, act: Callable[..., Any], **members: Any) -> dict[str, Any]:
        """A call that makes the key look like `after`, if it is done."""
        book.doubt = after
        try:
            answer = self.call(act, **members)
        except ClientError:
            book.doubt = None
            raise
        book.now, book.doubt = after, None
        return answer

    def encrypt(self, book: KeyBook) -> None:
        text = self.chance.randbytes(32)
        blob = self.call(self.kms.encrypt, KeyId=book.key_id, Plaintext=text)["CiphertextBlob"]
        if len(book.blobs) >= MAX_BLOBS:
            book.blobs.pop(self.chance.randrange(1, MAX_BLOBS))  # the oldest is kept
        book.blobs.append((blob, text))

    def decrypt(self, book: KeyBook) -> None:
        if book.blobs:
            blob, text = self.chance.choice(book.blobs)
            assert self.call(self.kms.decrypt, CiphertextBlob=blob)["Plaintext"] == text

    def describe_anew(self, book: KeyBook) -> None:
        mark = self.mark()
        after = replace(book.now, description=mark)
        self.change(book, after, self.kms.update_key_description, KeyId=book.key_id, Description=mark)

    def put_policy(self, book: KeyBook) -> None:
        mark = self.mark()
        after = replace(book.now, policy=mark)
        self.change(book, after, self.kms.put_key_policy, KeyId=book.key_id, Policy=policy_of(mark))

    def alias(self, book: KeyBook) -> None:
        if len(book.now.aliases) >= 3:
            gone = self.chance.choice(sorted(book.now.aliases))
            after = replace(book.now, aliases=book.now.aliases - {gone})
            self.change(book, after, self.kms.delete_alias, AliasName=gone)
            return
        name = f"alias/{self.mark()}"
        after = replace(book.now, aliases=book.now.aliases | {name})
        self.change(book, after, self.kms.create_alias, AliasName=name, TargetKeyId=book.key_id)

    def grant(self, book: KeyBook) -> None:
        if len(book.now.grants) >= 3:
            gone = self.chance.choice(sorted(book.now.grants))
            after = replace(book.now, grants=book.now.grants - {gone})
            self.change(book, after, self.kms.revoke_grant, KeyId=book.key_id, GrantId=book.grant_ids[gone])
            return
        name = self.mark()
        after = replace(book.now, grants=book.now.grants | {name})
        members = {"Name": name, "GranteePrincipal": self.stranger.arn, "Operations": ["Encrypt"]}
        made = self.change(book, after, self.kms.create_grant, KeyId=book.key_id, **members)
        book.grant_ids[name] = made["GrantId"]

    def rotate(self, book: KeyBook) -> None:
        if book.now.rotations < MAX_ROTATIONS:
            after = replace(book.now, rotations=book.now.rotations + 1)
            self.change(book, after, self.kms.rotate_key_on_demand, KeyId=book.key_id)

    def disable(self, book: KeyBook) -> None:
        self.change(book, replace(book.now, state="Disabled"), self.kms.disable_key, KeyId=book.key_id)

    def enable(self, book: KeyBook) -> None:
        self.change(book, replace(book.now, state="Enabled"), self.kms.enable_key, KeyId=book.key_id)

    def doom(self, book: KeyBook) -> None:
        after = replace(book.now, state="PendingDeletion")
        self.change(book, after, self.kms.schedule_key_deletion, KeyId=book.key_id, PendingWindowInDays=7)

    def rescue(self, book: KeyBook) -> None:
        self.change(book, replace(book.now, state="Disabled"), self.kms.cancel_key_deletion, KeyId=book.key_id)

    def unusable(self, book: KeyBook) -> None:
        self.expect(("DisabledException", "KMSInvalidStateException"), self.kms.encrypt, book, Plaintext=b"x")

    def forbidden(self, book: KeyBook) -> None:
        self.expect(("AccessDeniedException",), self.other.schedule_key_deletion, book, PendingWindowInDays=7)

    def expect(self, codes: tuple[str, ...], act: Callable[..., Any], book: KeyBook, **members: Any) -> None:
        with pytest.raises(ClientError, match="|".join(codes)):
            self.call(act, KeyId=book.key_id, **members)

    def settle(self) -> None:
        """Those at hand."""
        for book in self.keys[-MAX_KEYS:]:
            book.settle(self.kms)

    def settle_all(self) -> None:
        """Every key that was ever made."""
        for book in self.keys:
            book.settle(self.kms)


@dataclass
class ImportActor(Actor):
    """Imports, deletes and imports again the material of one key."""

    key_id: str = ""
    material: bytes = b""
    blob: bytes = b""
    expected: tuple[str, ...] = ("Enabled",)

    def step(self) -> None:
        """An import, or its end."""
        if not self.key_id:
            self.key_id, self.material = external_key(self.kms), self.chance.randbytes(32)
            self.expected = ("PendingImport",)
        elif self.expected == ("Enabled",):
            if not self.blob:
                self.blob = self.call(self.kms.encrypt, KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"]
            self.expected = ("Enabled", "PendingImport")
            self.call(self.kms.delete_imported_key_material, KeyId=self.key_id)
            self.expected = ("PendingImport",)
        else:
            try:
                members = parameters(self.kms, self.key_id).members(self.material)
            except ClientError:
                raise
            except Exception as error:
                raise Stopped from error
            self.expected = ("Enabled", "PendingImport")
            self.call(self.kms.import_key_material, **members)
            self.expected = ("Enabled",)

    def settle(self) -> None:
        """Imported or not, as was acknowledged; old blobs open."""
        if self.key_id:
            state = state_of(self.kms, self.key_id)
            assert state in self.expected, (state, self.expected)
            self.expected = (state,)
            if state == "Enabled" and self.blob:
                assert self.kms.decrypt(CiphertextBlob=self.blob)["Plaintext"] == b"old"


@dataclass
class LogActor(Actor):
    """Puts numbered events in batches of five, into a new stream after each crash."""

    turn: int = 0
    acknowledged: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    fresh: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logs = self.daemon.client("logs", connect_timeout=2, read_timeout=20)
        self.group = f"/{self.name}"
        self.logs.create_log_group(logGroupName=self.group)

    @property
    def stream(self) -> str:
        """Of this turn."""
        return f"s{self.turn}"

    def step(self) -> None:
        """A batch."""
        if self.fresh:
            self.call(self.logs.create_log_stream, logGroupName=self.group, logStreamName=self.stream)
            self.fresh = False
        self.doubtful = [f"{self.stream}-{len(self.acknowledged) + index}" for index in range(5)]
        events = [{"timestamp": millis(), "message": message} for message in self.doubtful]
        self.call(self.logs.put_log_events, logGroupName=self.group, logStreamName=self.stream, logEvents=events)
        self.acknowledged += self.doubtful
        self.doubtful = []

    def settle(self) -> None:
        """All that was acknowledged is there, once; what was in doubt whole or not at all."""
        if not self.fresh:
            found = messages(self.logs, self.group, self.stream)
            assert found in (self.acknowledged, self.acknowledged + self.doubtful), self.stream
        self.turn, self.acknowledged, self.doubtful, self.fresh = self.turn + 1, [], [], True


@dataclass
class Load:
    """Several actors at once."""

    actors: list[Actor]

    def run(self, until: Callable[[threading.Event], None]) -> None:
        """Let all work while `until` runs, which may end them by its event; then wait for them."""
        over = threading.Event()
        threads = [threading.Thread(target=actor.work, args=(over,)) for actor in self.actors]
        for thread in threads:
            thread.start()
        try:
            until(over)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
        self.complain()

    def settle(self) -> None:
        """Raises the first thing that does not hold."""
        for actor in self.actors:
            actor.settle()

    def complain(self) -> None:
        """Raises what an actor met that was neither answer nor end."""
        for actor in self.actors:
            if actor.failure is not None:
                raise AssertionError(f"{actor.name} met what must not be") from actor.failure

    def done(self) -> Counter[str]:
        """Acknowledged calls, by operation."""
        return sum((actor.done for actor in self.actors), Counter())

    def refused(self) -> Counter[str]:
        """Refusals, by name."""
        return sum((actor.refused for actor in self.actors), Counter())

    def request_ids(self) -> set[str]:
        """Of all that was acknowledged."""
        return {one for actor in self.actors for one in actor.request_ids}


def load_on(daemon: Daemon, chance: random.Random, *, clients: int = 3, imports: bool = True) -> Load:
    """A load of every kind on a running daemon."""
    stranger = daemon.user("stranger")

    def seeded() -> random.Random:
        return random.Random(chance.random())  # noqa: S311 (moments, no secrets)

    actors: list[Actor] = [KeyActor(daemon, f"k{index}", seeded(), stranger) for index in range(clients)]
    if imports:
        actors.append(ImportActor(daemon, "import", seeded(), stranger))
    actors.append(LogActor(daemon, "log", seeded(), stranger))
    return Load(actors)
