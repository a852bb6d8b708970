"""Tags of log groups: validation and changes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from kmsd.cloudwatch_logs.call import log_group_of, reader_of, transaction_of
from kmsd.errors import InvalidParameterException, TooManyTagsException
from kmsd.operations.declaration import WriteCall

MAX_TAGS = 50
_MAX_KEY_LENGTH = 128
_MAX_VALUE_LENGTH = 256
_CHARS = frozenset("_.:/=+-@")


def check(tags: Mapping[str, str]) -> None:
    """Raises InvalidParameterException for a key or value that AWS refuses."""
    for name, value in tags.items():
        if not 1 <= len(name) <= _MAX_KEY_LENGTH or not _fits(name):
            raise InvalidParameterException(f"The tag key '{name}' is not valid.")
        if name.lower().startswith("aws:"):
            raise InvalidParameterException("Tag keys cannot start with 'aws:'")
        if len(value) > _MAX_VALUE_LENGTH or not _fits(value):
            raise InvalidParameterException(f"The value of the tag '{name}' is not valid.")


def _fits(text: str) -> bool:
    r"""True if `text` matches AWS's `^([\p{L}\p{Z}\p{N}_.:/=+\-@]+)$`, which Python's `re` does not support."""
    return all(char in _CHARS or unicodedata.category(char)[0] in "LZN" for char in text)


async def put(call: WriteCall, tags: Mapping[str, str]) -> None:
    """Add tags to the call's group. Raises TooManyTagsException."""
    check(tags)
    group_id = log_group_of(call).group_id
    present = await reader_of(call).log_group_tags(group_id)
    if len({*present, *tags}) > MAX_TAGS:
        raise TooManyTagsException(f"A log group can have {MAX_TAGS} tags.")
    await transaction_of(call).put_log_group_tags(group_id, tags)
