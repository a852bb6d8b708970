"""Exit statuses of commands and of the daemon's processes, after sysexits.h, and the errors that map to them.

0    done
1    `check`: warnings; `explain`: denied; `jobs run`, `audit verify`: something was found
2    `check`: failures
64   the command line is wrong
65   the input is refused: a policy, a backup, a blob, a change that the state of a key does not allow
66   there is no such file, user, role, key or access key
70   a fault of the program
73   it exists already
75   temporarily unavailable: token unreachable, database locked, disk full, trail not writable
77   the token refused the PIN
78   configuration or data need a human
130  interrupted
"""

EXIT_USAGE = 64
"""EX_USAGE."""
EXIT_DATA = 65
"""EX_DATAERR."""
EXIT_NOT_FOUND = 66
"""EX_NOINPUT."""
EXIT_INTERNAL = 70
"""EX_SOFTWARE."""
EXIT_EXISTS = 73
"""EX_CANTCREAT."""
EXIT_UNAVAILABLE = 75
"""EX_TEMPFAIL: the same command may succeed later. If a worker ends with it, the supervisor starts another."""
EXIT_PIN_REFUSED = 77
"""EX_NOPERM: the token refused the PIN. A restart would try the PIN again; only a human may do that."""
EXIT_CONFIG = 78
"""EX_CONFIG: configuration, database or token are not fit to serve, and waiting does not help."""
FINAL = frozenset({EXIT_PIN_REFUSED, EXIT_CONFIG})
"""Statuses of a worker that end the daemon. Its unit then stops the socket too (systemd/kmsd.service)."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as in shells."""


class CommandError(Exception):
    """A command failed. The text says why and, if that helps, what to type."""

    status = EXIT_CONFIG


class WrongUsage(CommandError):
    """The command line asks for something impossible."""

    status = EXIT_USAGE


class InputRefused(CommandError):
    """The content of a file, or the state of a key, does not allow the command."""

    status = EXIT_DATA


class NotFound(CommandError):
    """A named file, user, role, key or access key does not exist or, for a file, cannot be read."""

    status = EXIT_NOT_FOUND


class ExistsAlready(CommandError):
    """The thing to create already exists, and is left as it is."""

    status = EXIT_EXISTS


class TryLater(CommandError):
    """A resource is unreachable, full or in use at present."""

    status = EXIT_UNAVAILABLE
