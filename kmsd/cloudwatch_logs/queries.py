"""Lookup of queries named in requests."""

from __future__ import annotations

from kmsd.cloudwatch_logs.call import reader_of
from kmsd.cloudwatch_logs.insights.stored_query import StoredQuery
from kmsd.errors import ResourceNotFoundException
from kmsd.operations.declaration import Call


async def require_query(call: Call, query_id: str) -> StoredQuery:
    """Return the query with this id in the caller's account. Raises ResourceNotFoundException."""
    query = await reader_of(call).log_query(query_id)
    if query is None or query.account != call.caller.account:
        raise ResourceNotFoundException("The specified query does not exist.")
    return query
