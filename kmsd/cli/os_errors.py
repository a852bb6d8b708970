"""Messages for errors of the operating system."""

from __future__ import annotations

import errno

from kmsd.exit_codes import CommandError, TryLater

_HEALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the disk fails",
    errno.EPIPE: "the reader of the output has gone",
}
_NEEDS_A_HUMAN = {
    errno.EACCES: "this user may not do that",
    errno.EPERM: "this user may not do that",
    errno.EROFS: "the disk is read-only",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it is there already",
    errno.EADDRINUSE: "something else listens there",
}


def in_words(error: OSError, consequence: str = "") -> CommandError | None:
    """Return the error as one for the operator; None if it is not in the tables."""
    number = error.errno or 0
    sentence = _HEALS.get(number) or _NEEDS_A_HUMAN.get(number)
    if sentence is None:
        return None
    kind = TryLater if number in _HEALS else CommandError
    parts = (consequence, "" if error.filename is None else str(error.filename), f"{sentence} ({error.strerror})")
    return kind(": ".join(part for part in parts if part))
