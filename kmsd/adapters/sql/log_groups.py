"""SQL of CloudWatch Logs: log groups, streams and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.access import SqlAccess
from kmsd.adapters.sql.row_mapping import Row
from kmsd.cloudwatch_logs.groups import LogGroup, LogStream, ResultsKey
from kmsd.cloudwatch_logs.insights.stored_query import StoredQuery
from kmsd.cloudwatch_logs.shapes import QueryStatistics

_GROUP = "group_id, account, name, arn, created_at, log_class, retention_days, kms_key, revision"
_STREAM = "stream_id, group_id, name, created_at"
_QUERY = (
    "query_id, account, group_name, principal, created_at, deadline_at, sealed_text, status, ended_at, statistics, "
    "kms_key"
)
_AFTER_ALL = "\U0010ffff"
_ALL = 2**63 - 1
"""Limit that is none, in both databases."""


def _group(row: Row) -> LogGroup:
    return LogGroup(
        group_id=row[0],
        account=row[1],
        name=row[2],
        arn=row[3],
        created_at=row_mapping.instant(row[4]),
        log_class=row[5],
        retention_days=row[6],
        kms_key=row[7],
        revision=row[8],
    )


def _stream(row: Row) -> LogStream:
    return LogStream(stream_id=row[0], group_id=row[1], name=row[2], created_at=row_mapping.instant(row[3]))


def _query(row: Row) -> StoredQuery:
    return StoredQuery(
        query_id=row[0],
        account=row[1],
        group_name=row[2],
        principal=row[3],
        created_at=row_mapping.instant(row[4]),
        deadline_at=row_mapping.instant(row[5]),
        sealed_text=row[6],
        status=row[7],
        ended_at=row_mapping.maybe_instant(row[8]),
        statistics=msgspec.json.decode(row[9], type=QueryStatistics),
        kms_key=row[10],
    )


class LogGroupQueries(SqlAccess):
    """Implements `kmsd.cloudwatch_logs.ports.LogReader`; part of `SqlReader`."""

    async def log_group(self, account: str, name: str) -> LogGroup | None:
        row = await self._one(f"SELECT {_GROUP} FROM log_group WHERE account = ? AND name = ?", account, name)
        return None if row is None else _group(row)

    async def log_groups_after(
        self, account: str, name: str, count: int, *, prefix: str = "", containing: str = ""
    ) -> Sequence[LogGroup]:
        found = await self._all(
            f"SELECT {_GROUP} FROM log_group WHERE account = ? AND name > ? AND name >= ? AND name < ? "
            "AND (? = '' OR replace(name, ?, '') <> name) ORDER BY name LIMIT ?",
            account,
            name,
            prefix,
            prefix + _AFTER_ALL,
            containing,
            containing,
            count,
        )
        return [_group(row) for row in found]

    async def all_log_groups(self) -> Sequence[LogGroup]:
        return [_group(row) for row in await self._all(f"SELECT {_GROUP} FROM log_group ORDER BY account, name")]

    async def log_groups_kept_for_days(self) -> Sequence[LogGroup]:
        return [
            _group(row) for row in await self._all(f"SELECT {_GROUP} FROM log_group WHERE retention_days IS NOT NULL")
        ]

    async def count_log_groups(self, account: str) -> int:
        row = await self._one("SELECT count(*) FROM log_group WHERE account = ?", account)
        return 0 if row is None else int(row[0])

    async def log_group_tags(self, group_id: bytes) -> Mapping[str, str]:
        return dict(
            await self._all(
                "SELECT tag_key, tag_value FROM log_group_tag WHERE group_id = ? ORDER BY tag_key", group_id
            )
        )

    async def log_stream(self, group_id: bytes, name: str) -> LogStream | None:
        row = await self._one(f"SELECT {_STREAM} FROM log_stream WHERE group_id = ? AND name = ?", group_id, name)
        return None if row is None else _stream(row)

    async def log_streams_after(
        self, group_id: bytes, name: str, count: int, *, prefix: str = "", descending: bool = False
    ) -> Sequence[LogStream]:
        above, below = ("", name or _AFTER_ALL) if descending else (name, _AFTER_ALL)
        found = await self._all(
            f"SELECT {_STREAM} FROM log_stream WHERE group_id = ? AND name > ? AND name < ? AND name >= ? AND name < ? "
            f"ORDER BY name {'DESC' if descending else 'ASC'} LIMIT ?",
            group_id,
            above,
            below,
            prefix,
            prefix + _AFTER_ALL,
            _ALL if count < 0 else count,
        )
        return [_stream(row) for row in found]

    async def log_stream_names(self, group_id: bytes, stream_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        marks = ", ".join("?" * len(stream_ids))
        return dict(
            await self._all(
                f"SELECT stream_id, name FROM log_stream WHERE group_id = ? AND stream_id IN ({marks})",
                group_id,
                *stream_ids,
            )
        )

    async def dead_log_groups(self, before: datetime) -> Sequence[bytes]:
        found = await self._all("SELECT group_id FROM log_dead_group WHERE deleted_at <= ?", row_mapping.micros(before))
        return [row[0] for row in found]

    async def dead_log_streams(self) -> Mapping[bytes, frozenset[bytes]]:
        found: dict[bytes, set[bytes]] = {}
        for group_id, stream_id in await self._all("SELECT group_id, stream_id FROM log_dead_stream"):
            found.setdefault(group_id, set()).add(stream_id)
        return {group_id: frozenset(streams) for group_id, streams in found.items()}

    async def results_key(self, account: str) -> ResultsKey:
        row = await self._one("SELECT kms_key, revision FROM log_results_key WHERE account = ?", account)
        return ResultsKey(account) if row is None else ResultsKey(account, row[0], row[1])

    async def log_query(self, query_id: str) -> StoredQuery | None:
        row = await self._one(f"SELECT {_QUERY} FROM log_query WHERE query_id = ?", query_id)
        return None if row is None else _query(row)

    async def log_queries_before(
        self, account: str, position: str, count: int, *, group: str | None = None, status: str | None = None
    ) -> Sequence[StoredQuery]:
        where: list[str] = ["account = ?"]
        values: list[object] = [account]
        if position:
            created, _, query_id = position.partition(" ")
            where.append("(created_at, query_id) < (?, ?)")
            values += [int(created), query_id]
        for column, value in (("group_name", group), ("status", status)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        found = await self._all(
            f"SELECT {_QUERY} FROM log_query WHERE {' AND '.join(where)} "
            "ORDER BY created_at DESC, query_id DESC LIMIT ?",
            *values,
            count,
        )
        return [_query(row) for row in found]

    async def old_log_queries(self, before: datetime, count: int) -> Sequence[str]:
        found = await self._all(
            "SELECT query_id FROM log_query WHERE created_at < ? ORDER BY created_at LIMIT ?",
            row_mapping.micros(before),
            count,
        )
        return [row[0] for row in found]

    async def count_running_queries(self, account: str, now: datetime) -> int:
        row = await self._one(
            "SELECT count(*) FROM log_query WHERE account = ? AND status = 'Running' AND deadline_at > ?",
            account,
            row_mapping.micros(now),
        )
        return 0 if row is None else int(row[0])


class LogGroupStatements(LogGroupQueries):
    """Implements `kmsd.cloudwatch_logs.ports.LogTransaction`; part of `SqlTransaction`."""

    async def insert_log_group(self, group: LogGroup) -> None:
        await self._run(
            f"INSERT INTO log_group ({_GROUP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            group.group_id,
            group.account,
            group.name,
            group.arn,
            row_mapping.micros(group.created_at),
            group.log_class,
            group.retention_days,
            group.kms_key,
            group.revision,
        )

    async def update_log_group(self, old: LogGroup, new: LogGroup) -> None:
        await self._swap(
            f"log group {old.name}",
            "UPDATE log_group SET retention_days = ?, kms_key = ?, revision = revision + 1 "
            "WHERE group_id = ? AND revision = ?",
            new.retention_days,
            new.kms_key,
            old.group_id,
            old.revision,
        )

    async def delete_log_group(self, group: LogGroup, now: datetime) -> None:
        await self._swap(f"log group {group.name}", "DELETE FROM log_group WHERE group_id = ?", group.group_id)
        await self._run(
            "INSERT INTO log_dead_group (group_id, deleted_at) VALUES (?, ?)", group.group_id, row_mapping.micros(now)
        )

    async def purge_dead_log_group(self, group_id: bytes) -> None:
        await self._run("DELETE FROM log_dead_group WHERE group_id = ?", group_id)

    async def put_log_group_tags(self, group_id: bytes, tags: Mapping[str, str]) -> None:
        for tag_key, tag_value in tags.items():
            await self._run(
                "INSERT INTO log_group_tag (group_id, tag_key, tag_value) VALUES (?, ?, ?) "
                "ON CONFLICT (group_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value",
                group_id,
                tag_key,
                tag_value,
            )

    async def delete_log_group_tags(self, group_id: bytes, tag_keys: Sequence[str]) -> None:
        for tag_key in tag_keys:
            await self._run("DELETE FROM log_group_tag WHERE group_id = ? AND tag_key = ?", group_id, tag_key)

    async def insert_log_stream(self, stream: LogStream) -> None:
        await self._run(
            f"INSERT INTO log_stream ({_STREAM}) VALUES (?, ?, ?, ?)",
            stream.stream_id,
            stream.group_id,
            stream.name,
            row_mapping.micros(stream.created_at),
        )

    async def delete_log_stream(self, stream: LogStream) -> None:
        await self._swap(f"log stream {stream.name}", "DELETE FROM log_stream WHERE stream_id = ?", stream.stream_id)
        await self._run(
            "INSERT INTO log_dead_stream (group_id, stream_id) VALUES (?, ?)", stream.group_id, stream.stream_id
        )

    async def purge_dead_log_streams(self, group_id: bytes, stream_ids: Sequence[bytes]) -> None:
        for stream_id in stream_ids:
            await self._run("DELETE FROM log_dead_stream WHERE group_id = ? AND stream_id = ?", group_id, stream_id)

    async def put_results_key(self, old: ResultsKey, kms_key: str | None) -> None:
        if old.revision == 0:
            await self._run(
                "INSERT INTO log_results_key (account, kms_key, revision) VALUES (?, ?, 1)", old.account, kms_key
            )
            return
        await self._swap(
            "the key of query results",
            "UPDATE log_results_key SET kms_key = ?, revision = revision + 1 WHERE account = ? AND revision = ?",
            kms_key,
            old.account,
            old.revision,
        )

    async def insert_log_query(self, query: StoredQuery) -> None:
        await self._run(
            f"INSERT INTO log_query ({_QUERY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            query.query_id,
            query.account,
            query.group_name,
            query.principal,
            row_mapping.micros(query.created_at),
            row_mapping.micros(query.deadline_at),
            query.sealed_text,
            query.status,
            row_mapping.micros(query.ended_at),
            msgspec.json.encode(query.statistics).decode(),
            query.kms_key,
        )

    async def complete_log_query(self, query: StoredQuery) -> bool:
        changed = await self._run(
            "UPDATE log_query SET status = ?, ended_at = ?, statistics = ?, kms_key = ? "
            "WHERE query_id = ? AND status = 'Running'",
            query.status,
            row_mapping.micros(query.ended_at),
            msgspec.json.encode(query.statistics).decode(),
            query.kms_key,
            query.query_id,
        )
        return changed == 1

    async def delete_log_query(self, query_id: str) -> None:
        await self._run("DELETE FROM log_query WHERE query_id = ?", query_id)
