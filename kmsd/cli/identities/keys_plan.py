"""Plan for what belongs to keys: policy, further aliases, tags and named grants."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

import kmsd.services  # noqa: F401 (the declared operations: `check_operations` needs them)
from kmsd.audit import KEY
from kmsd.cli.commands.operator_audit import KMS
from kmsd.cli.identities.change import CREATE, DELETE, UPDATE, Change
from kmsd.cli.identities.document import Document, GrantEntry, KeyEntry, is_same, text_of
from kmsd.custody.resource_facts import EVERY
from kmsd.domain.alias import Alias, check_new_name
from kmsd.domain.arn import ArnScope
from kmsd.domain.grant import Grant
from kmsd.domain.key import Key
from kmsd.domain.principal import check_principal
from kmsd.domain.quotas import Quotas
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, NotFound
from kmsd.operations.kms import tag_rules
from kmsd.operations.kms.create_grant import check_constraint, check_operations
from kmsd.ports import Reader, Transaction

PAGE = 1000
Make = Callable[[Transaction], Awaitable[None]]


async def aliases_of(reader: Reader, key: Key, now: datetime) -> dict[str, Alias]:
    """Return all aliases of a key, by name."""
    found = await reader.aliases_after(key.account, "", EVERY, now=now, key_id=key.key_id)
    return {alias.name: alias for alias in found}


async def named_grants_of(reader: Reader, key: Key) -> list[Grant]:
    """Return the grants of a key that have a name."""
    found: list[Grant] = []
    after = ""
    while page := await reader.grants_of(key.key_id, after, PAGE):
        found += [grant for grant in page if grant.name is not None]
        after = page[-1].grant_id
    return found


class KeysPlan(msgspec.Struct, frozen=True):
    """Makes the plan for all keys of a file."""

    reader: Reader
    arns: ArnScope
    quotas: Quotas
    now: datetime
    prune: bool
    """True: further aliases, and named grants, that the file lacks for a key are deleted."""

    async def of(self, wanted: Document) -> list[Change]:
        """Return the changes. Raises `NotFound`, `InputRefused`."""
        changes: list[Change] = []
        for entry in wanted.keys:
            key = await self._key(entry)
            try:
                changes += [change async for change in self._of_key(key, entry)]
            except ServiceError as exc:
                raise InputRefused(f"key {entry.alias}: {exc.message}") from exc
        return changes

    async def _key(self, entry: KeyEntry) -> Key:
        alias = await self.reader.alias(entry.account, entry.alias)
        key = None if alias is None else await self.reader.key(alias.key_id)
        if key is None or not key.exists_at(self.now):
            raise NotFound(f"account {entry.account} has no key with the {entry.alias}: create it by CreateKey first")
        return key

    async def _of_key(self, key: Key, entry: KeyEntry) -> AsyncIterator[Change]:
        if entry.policy is not None and not is_same(key.policy, text_of(entry.policy)):
            yield self._policy(key, text_of(entry.policy))
        async for change in self._aliases(key, entry):
            yield change
        if entry.tags is not None:
            async for change in self._tags(key, entry.tags):
                yield change
        async for change in self._grants(key, entry):
            yield change

    @staticmethod
    def _change(mark: str, text: str, event: str, parameters: Mapping[str, Any], make: Make, key: Key) -> Change:  # noqa: PLR0917
        resources = ((key.arn, key.account, KEY),)
        parameters = {"keyId": key.arn, **parameters}
        return Change(mark, f"key {key.arn}: {text}", event, parameters, make, key.account, KMS, resources)

    def _policy(self, key: Key, policy: str) -> Change:
        async def make(transaction: Transaction) -> None:
            present = await transaction.key(key.key_id)
            if present is not None:
                await transaction.update_key(present, replace(present, policy=policy))

        parameters = {"policyName": "default", "policy": policy, "previousPolicy": key.policy}
        return self._change(UPDATE, "policy", "PutKeyPolicy", parameters, make, key)

    async def _aliases(self, key: Key, entry: KeyEntry) -> AsyncIterator[Change]:
        present = await aliases_of(self.reader, key, self.now)
        for name in entry.aliases:
            if name in present:
                continue
            check_new_name(name)
            alias = await self.reader.alias(entry.account, name)
            if alias is None:
                made = Alias(entry.account, name, key.key_id, self.now, self.now)
                yield self._change(
                    CREATE,
                    name,
                    "CreateAlias",
                    {"aliasName": name, "targetKeyId": key.key_id},
                    lambda transaction, made=made: transaction.insert_alias(made),  # type: ignore[misc]
                    key,
                )
            else:
                yield self._change(
                    UPDATE,
                    f"{name} (until now of {alias.key_id})",
                    "UpdateAlias",
                    {"aliasName": name, "targetKeyId": key.key_id},
                    lambda transaction, alias=alias: transaction.point_alias(alias, key.key_id, self.now),  # type: ignore[misc]
                    key,
                )
        most = self.quotas.aliases_per_key
        if len(present.keys() | set(entry.aliases)) > most:
            raise InputRefused(f"key {entry.alias} would have more than {most} aliases")
        for name in sorted(present.keys() - {entry.alias, *entry.aliases}) if self.prune else ():
            yield self._change(
                DELETE,
                name,
                "DeleteAlias",
                {"aliasName": name},
                lambda transaction, alias=present[name]: transaction.delete_alias(alias),  # type: ignore[misc]
                key,
            )

    async def _tags(self, key: Key, tags: Mapping[str, str]) -> AsyncIterator[Change]:
        present = dict(await self.reader.tags_of(key.key_id))
        tag_rules.check_count(tags, self.quotas.tags_per_key)
        removed = sorted(present.keys() - tags.keys())
        if removed:
            yield self._change(
                DELETE,
                f"tags {', '.join(removed)}",
                "UntagResource",
                {"tagKeys": removed},
                lambda transaction: transaction.delete_tags(key.key_id, removed),
                key,
            )
        put = {name: value for name, value in tags.items() if present.get(name) != value}
        if put:
            yield self._change(
                UPDATE,
                f"tags {', '.join(sorted(put))}",
                "TagResource",
                {"tags": put},
                lambda transaction: transaction.put_tags(key.key_id, put),
                key,
            )

    async def _grants(self, key: Key, entry: KeyEntry) -> AsyncIterator[Change]:
        present = await named_grants_of(self.reader, key)
        wanted = {grant.name: grant for grant in entry.grants}
        for name, grant in wanted.items():
            same = [one for one in present if one.name == name]
            if len(same) == 1 and entry_of(same[0]).terms == grant.terms:
                continue
            for old in same:
                yield self._revoked(key, old)
            yield self._granted(key, grant)
        for old in present:
            if self.prune and old.name not in wanted:
                yield self._revoked(key, old)

    def _granted(self, key: Key, entry: GrantEntry) -> Change:
        check_operations(entry.operations, key)
        check_constraint(key, entry.context_equals or entry.context_subset or {})
        for principal in filter(None, (entry.grantee, entry.retiring)):
            check_principal(principal, self.arns.partition)
        grant = Grant(
            grant_id=secrets.token_hex(32),
            key_id=key.key_id,
            name=entry.name,
            grantee_principal=entry.grantee,
            retiring_principal=entry.retiring,
            operations=entry.operations,
            encryption_context_equals=entry.context_equals,
            encryption_context_subset=entry.context_subset,
            issuing_account=key.account,
            issuing_principal=self.arns.root(key.account),
            created_at=self.now,
        )
        most = self.quotas.grants_per_key

        async def make(transaction: Transaction) -> None:
            if await transaction.count_grants(key.key_id) >= most:
                raise InputRefused(f"{key.arn} has {most} grants, which is the limit")
            await transaction.insert_grant(grant)

        parameters = {
            "name": entry.name,
            "granteePrincipal": entry.grantee,
            "retiringPrincipal": entry.retiring,
            "operations": list(entry.operations),
            "grantId": grant.grant_id,
        }
        return self._change(CREATE, f"grant {entry.name} for {entry.grantee}", "CreateGrant", parameters, make, key)

    def _revoked(self, key: Key, grant: Grant) -> Change:
        return self._change(
            DELETE,
            f"grant {grant.name} for {grant.grantee_principal}",
            "RevokeGrant",
            {"grantId": grant.grant_id},
            lambda transaction: transaction.delete_grant(grant.grant_id),
            key,
        )


def entry_of(grant: Grant) -> GrantEntry:
    """Return a stored grant as the file has it."""
    return GrantEntry(
        name=grant.name or "",
        grantee=grant.grantee_principal,
        operations=tuple(grant.operations),
        retiring=grant.retiring_principal,
        context_equals=None if grant.encryption_context_equals is None else dict(grant.encryption_context_equals),
        context_subset=None if grant.encryption_context_subset is None else dict(grant.encryption_context_subset),
    )
