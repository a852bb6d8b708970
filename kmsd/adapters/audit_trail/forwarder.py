"""Forward copies of the trail to the journal or to syslog (RFC 5424), for hosts that ship their logs.

Best effort: the records are already durable in the trail, and no call waits for a receiver. If a receiver is slow or
away, records are dropped and counted, and the number is logged.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import structlog

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
MAX_QUEUE = 10_000
"""Records that wait for a receiver; further ones are dropped."""
WARN_INTERVAL_SECONDS = 10.0
"""Seconds between two log events about dropped records."""
PAUSE_SECONDS = 1.0
"""Seconds between two attempts to reach a receiver."""
CONNECT_SECONDS = 3.0
CLOSE_SECONDS = 1.0
# RFC 5424 section 6.2.1: facility 13 (log audit), severity 6 (informational): 13 * 8 + 6.
PRIORITY = 110
SYSLOG_PORT = 514

Send = Callable[[bytes], None]
log = structlog.get_logger()


class BadTarget(ValueError):
    """Invalid forwarding target in the configuration."""


class Destination:
    """Receiver of records. If `send` raises OSError, the forwarder closes it and calls `open` again."""

    def __init__(self, target: str, writer: str) -> None:
        self.target = target
        self.writer = writer
        self._socket: socket.socket | None = None
        self._host = socket.gethostname()[:255] or "-"
        self._process = str(os.getpid())

    def open(self) -> None:
        """Connect."""

    def send(self, record: bytes) -> None:
        """Send one record."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise OSError("not connected")
        return self._socket


class JournalDestination(Destination):
    """systemd's journal by its native protocol. Without its socket, lines on standard error, which it reads too."""

    def open(self) -> None:
        """Connect, if the socket exists."""
        if JOURNAL_SOCKET.exists():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket.connect(str(JOURNAL_SOCKET))

    def send(self, record: bytes) -> None:
        """Send one entry whose message is the record."""
        if self._socket is None:
            sys.stderr.buffer.write(record + b"\n")
            sys.stderr.buffer.flush()
            return
        fields = (b"MESSAGE=%b" % record, b"PRIORITY=6", b"SYSLOG_IDENTIFIER=kmsd-audit", b"KMSD_AUDIT=1")
        self._socket.send(b"\n".join(fields) + b"\nKMSD_WRITER=%b\n" % self.writer.encode())


class SyslogDestination(Destination):
    """Syslog daemon: `syslog://HOST:PORT` by UDP, `syslog+tcp://HOST:PORT`, `syslog+unix:///dev/log`."""

    def open(self) -> None:
        """Connect."""
        parts = urlsplit(self.target)
        if parts.scheme == "syslog+unix":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket.connect(parts.path)
            return
        place = (parts.hostname or "", parts.port or SYSLOG_PORT)
        if parts.scheme == "syslog+tcp":
            self._socket = socket.create_connection(place, CONNECT_SECONDS)
            return
        family, kind, _, _, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind)
        self._socket.settimeout(CONNECT_SECONDS)
        self._socket.connect(address)

    def send(self, record: bytes) -> None:
        """Send one message; over TCP prefixed with its length (octet counting, RFC 6587 section 3.4.1)."""
        message = self.message(record)
        if self.target.startswith("syslog+tcp:"):
            self._connected().sendall(b"%d %b" % (len(message), message))
        else:
            self._connected().send(message)

    def message(self, record: bytes) -> bytes:
        """Return HEADER SP STRUCTURED-DATA SP MSG (RFC 5424 section 6). The writer is the MSGID."""
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        head = f"<{PRIORITY}>1 {at} {self._host} kmsd-audit {self._process} {self.writer} - "
        return head.encode() + record


def destination_for(target: str, writer: str) -> Destination:
    """Return the receiver for an entry of `[audit] forward`. Raises `BadTarget`."""
    if target == "journal":
        return JournalDestination(target, writer)
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError as exc:
        raise BadTarget(f"{target!r}: {exc}") from exc
    if parts.scheme in ("syslog", "syslog+tcp") and parts.hostname and port != 0:
        return SyslogDestination(target, writer)
    if parts.scheme == "syslog+unix" and parts.path:
        return SyslogDestination(target, writer)
    raise BadTarget(f"{target!r}: journal, syslog://HOST:PORT, syslog+tcp://HOST:PORT or syslog+unix:///PATH")


class Forwarder:
    """Bounded queue for one receiver, and the thread that empties it."""

    def __init__(self, receiver: Destination) -> None:
        self.dropped = 0
        self._receiver = receiver
        self._records: deque[bytes] = deque()
        self._last_warned = 0
        self._warned_at = float("-inf")
        self._lock = threading.Condition()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="audit-forward", daemon=True)
        self._thread.start()

    @classmethod
    def to(cls, target: str, writer: str) -> Forwarder:
        """Create a forwarder for one entry of `[audit] forward`. Raises `BadTarget`."""
        return cls(destination_for(target, writer))

    def offer(self, records: Sequence[bytes]) -> None:
        """Queue as many records as there is room for; drop the rest. Never waits for the receiver."""
        with self._lock:
            room = max(0, MAX_QUEUE - len(self._records))
            self._records.extend(records[:room])
            self.dropped += max(0, len(records) - room)
            self._lock.notify()

    def close(self) -> None:
        """Send for at most `CLOSE_SECONDS` more, then drop what is left."""
        self._deadline = time.monotonic() + CLOSE_SECONDS
        self._stopping.set()
        with self._lock:
            self._lock.notify()
        self._thread.join(CLOSE_SECONDS + CONNECT_SECONDS)
        self._warn(always=True)

    def _run(self) -> None:
        is_open = False
        while self._wait() and time.monotonic() < self._deadline:
            is_open = self._send(is_open=is_open)
            self._warn(always=False)
        with self._lock:
            self.dropped += len(self._records)
            self._records.clear()
        self._receiver.close()

    def _wait(self) -> bool:
        """Wait for records. False if the queue is empty and the forwarder is closing."""
        with self._lock:
            while not self._records and not self._stopping.is_set():
                self._lock.wait()
            return bool(self._records)

    def _send(self, *, is_open: bool) -> bool:
        """Send all queued records. True if the receiver is still connected."""
        with self._lock:
            batch = list(self._records)
        sent = too_long = 0
        try:
            if not is_open:
                self._receiver.open()
            for record in batch:
                too_long += not self._fits(record)
                sent += 1
        except OSError:
            self._receiver.close()
            # The receiver may be unable to accept the record that failed: drop it, so that others follow. The rest
            # stays queued, within the bound.
            self._discard(sent + 1, dropped=too_long + 1)
            self._stopping.wait(PAUSE_SECONDS)
            return False
        self._discard(sent, dropped=too_long)
        return True

    def _fits(self, record: bytes) -> bool:
        """Send one record; False if it is too long for a datagram.

        The receiver still works then, so sending does not pause: a client that sends large encryption contexts must not
        delay the copies of other clients' records.
        """
        try:
            self._receiver.send(record)
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                return False
            raise
        return True

    def _discard(self, count: int, *, dropped: int) -> None:
        with self._lock:
            for _ in range(count):
                self._records.popleft()
            self.dropped += dropped

    def _warn(self, *, always: bool) -> None:
        now = time.monotonic()
        if self.dropped > self._last_warned and (always or now - self._warned_at >= WARN_INTERVAL_SECONDS):
            log.warning("audit_copies_dropped", target=self._receiver.target, dropped=self.dropped - self._last_warned)
            self._last_warned, self._warned_at = self.dropped, now
