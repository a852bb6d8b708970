"""Exit statuses by which the daemon's processes, and systemd, understand each other."""

EXIT_AWAY = 75
"""EX_TEMPFAIL: something that a worker needs is away and may come back. The supervisor tries again."""
EXIT_REFUSED = 77
"""EX_NOPERM: the token refused the PIN. Starting again would offer it a second time; nobody may do that but a human."""
EXIT_CONFIG = 78
"""EX_CONFIG: configuration, database or token are not fit to serve, and waiting changes nothing."""
FINAL = frozenset({EXIT_REFUSED, EXIT_CONFIG})
"""The daemon ends with these. Its unit then stops the socket too (systemd/kmsd.service)."""
