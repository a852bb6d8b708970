"""Tags of a key: what may be one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kmsd.errors import TagException
from kmsd.operations.kms.shapes import Tag

_ALLOWED = re.compile(r"[\w\s+\-=.:/@]*")


def as_mapping(tags: Iterable[Tag]) -> Mapping[str, str]:
    """The tags of one request. Raises TagException for a key given twice, reserved, or of characters AWS refuses."""
    found: dict[str, str] = {}
    for tag in tags:
        if tag.tag_key in found:
            raise TagException("Duplicate tag keys")
        check_keys((tag.tag_key,))
        if not _ALLOWED.fullmatch(tag.tag_key) or not _ALLOWED.fullmatch(tag.tag_value):
            raise TagException("Tag keys and values can contain letters, numbers, spaces and + - = . _ : / @ only")
        found[tag.tag_key] = tag.tag_value
    return found


def check_keys(tag_keys: Iterable[str]) -> None:
    """Raises TagException for a key that is reserved."""
    if any(tag_key.lower().startswith("aws:") for tag_key in tag_keys):
        raise TagException("Tags beginning with aws: are reserved")


def check_count(tags: Mapping[str, str], most: int) -> None:
    """Raises TagException for more tags than a key may carry."""
    if len(tags) > most:
        raise TagException("Too many tags")
