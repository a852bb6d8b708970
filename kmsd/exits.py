"""Exit statuses by which the daemon's processes, and systemd, understand each other."""

EXIT_REFUSED = 77
"""EX_NOPERM: the token refused the PIN. Starting again would offer it a second time; nobody may do that but a human."""
EXIT_CONFIG = 78
"""EX_CONFIG: configuration, database or token are not fit to serve."""
