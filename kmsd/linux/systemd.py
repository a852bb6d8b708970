"""Readiness, watchdog and sockets by systemd's protocols. Does nothing without systemd.

The protocols are those of sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time

FOR_MAIN_PROCESS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)
"""Variables for the process that systemd started, not for its children."""
FIRST_SOCKET = 3
"""First descriptor passed by systemd (SD_LISTEN_FDS_START, sd_listen_fds(3))."""


def notify(*lines: str) -> None:
    """Send a state, such as `READY=1`. Raises OSError if systemd named a socket that cannot be reached."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # An abstract socket's address starts with "@" (sd_notify(3)).
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(path)
        sender.sendall("\n".join(lines).encode())


def reloading() -> None:
    """Notify systemd that the configuration is being reloaded; `READY=1` ends it. Raises OSError like `notify`."""
    # sd_notify(3), Type=notify-reload: "MONOTONIC_USEC= … must be sent in the same datagram as RELOADING=1".
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_seconds() -> float | None:
    """Return the interval in which systemd expects watchdog notifications; None if it expects none."""
    wanted, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not wanted or (pid and int(pid) != os.getpid()):
        return None
    return int(wanted) / 1e6


def passed_sockets() -> list[int]:
    """Return the descriptors of the sockets that systemd bound for this process; empty if it must bind its own."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return list(range(FIRST_SOCKET, FIRST_SOCKET + int(os.environ.get("LISTEN_FDS", "0"))))
