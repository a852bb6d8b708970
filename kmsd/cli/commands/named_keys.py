"""Look up the key that the command line names by id, ARN or alias."""

from __future__ import annotations

from datetime import datetime

from kmsd.app import arn_scope_of
from kmsd.config.sections import Config
from kmsd.domain.arn import parse_key_name
from kmsd.domain.key import Key
from kmsd.errors import ServiceError
from kmsd.exit_codes import NotFound
from kmsd.ports import Reader


async def key_named(reader: Reader, config: Config, text: str, now: datetime, *, account: str = "") -> Key:
    """Return the key; an alias without ARN is one of `account`, by default the configuration's. Raises `NotFound`."""
    try:
        name = parse_key_name(text, caller_account=account or config.account, arns=arn_scope_of(config), aliases=True)
    except ServiceError as exc:
        raise NotFound(f"{text} names no key here: {exc.message}") from exc
    alias = await reader.alias(name.account, name.alias) if name.alias else None
    key_id = alias.key_id if alias is not None else name.key_id
    key = await reader.key(key_id) if key_id else None
    if key is None or not key.exists_at(now):
        raise NotFound(f"there is no key {text}")
    return key
