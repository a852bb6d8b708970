"""Validation of a key's tags."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from kmsd.authz.wildcard import fold
from kmsd.errors import TagException
from kmsd.operations.kms.shapes import Tag

_ALLOWED = re.compile(r"[\w\s+\-=.:/@]*")


def as_mapping(tags: Iterable[Tag]) -> Mapping[str, str]:
    """Return the tags of a request. Raises TagException for duplicate or reserved keys and for invalid characters."""
    found: dict[str, str] = {}
    for tag in tags:
        if tag.tag_key in found:
            raise TagException("Duplicate tag keys")
        check_keys((tag.tag_key,))
        if not _ALLOWED.fullmatch(tag.tag_key) or not _ALLOWED.fullmatch(tag.tag_value):
            raise TagException("Tag keys and values can contain letters, numbers, spaces and + - = . _ : / @ only")
        found[tag.tag_key] = tag.tag_value
    return found


def has_twins(names: Collection[str]) -> bool:
    """True if two of the names are the same without regard to case. Those of a principal must not be (IAM)."""
    return len({fold(name) for name in names}) < len(names)


def check_keys(tag_keys: Iterable[str]) -> None:
    """Check that no key has the reserved prefix `aws:`. Raises TagException."""
    if any(tag_key.lower().startswith("aws:") for tag_key in tag_keys):
        raise TagException("Tags beginning with aws: are reserved")


def check_count(tags: Mapping[str, str], most: int) -> None:
    """Check the number of tags. Raises TagException."""
    if len(tags) > most:
        raise TagException("Too many tags")
