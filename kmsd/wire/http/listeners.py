"""Listening sockets, and the rule for those that may do without TLS."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

BACKLOG = 1_024
"""Completed connections that the kernel queues until they are accepted."""


class ListenerRefused(RuntimeError):
    """The server must not, or cannot, listen on this socket; the text says why and what to do."""


def listener_permitted(sock: socket.socket, *, tls: bool) -> None:
    """Raise ListenerRefused unless `sock` uses TLS, is reachable from this host only, or is a Unix socket.

    Judges the address that the socket is bound to, not the configured name.
    """
    if tls or sock.family == socket.AF_UNIX:
        return
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        raise ListenerRefused(f"cannot listen on a socket of family {sock.family}")
    host = sock.getsockname()[0]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not (mapped or address).is_loopback:
        raise ListenerRefused(
            f"plain HTTP is served on loopback addresses and Unix sockets only, and {host} is neither: "
            "configure a certificate and its key, or listen on 127.0.0.1"
        )


def address_of(sock: socket.socket) -> str:
    """Return the bound address as `[listen] address` has it: `127.0.0.1:8480`, `[::1]:8480`, `unix:/run/kmsd.sock`."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def bind_tcp(host: str, port: int) -> socket.socket:
    """Listen on exactly one address. If `host` is a name, prefer its IPv4 address. Port 0 takes a free port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenerRefused(f"cannot listen on {host}: {error.strerror}") from error
    # `localhost` is often both ::1 and 127.0.0.1; every client tries the latter.
    family, kind, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    # Name the protocol: asyncio turns Nagle's algorithm off only on sockets that say they are TCP.
    try:
        sock = socket.socket(family, kind, socket.IPPROTO_TCP)
    except OSError as error:
        # The unit's RestrictAddressFamilies= (systemd.exec(5)): the API's socket comes from kmsd.socket.
        raise ListenerRefused(
            f"cannot listen on {host}:{port}: {error.strerror}. The systemd unit permits no network sockets: "
            "take the API's from kmsd.socket, and give [metrics] a Unix socket (docs/monitoring.md)"
        ) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenerRefused(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return _prepared(sock)


def bind_unix(path: Path, mode: int = 0o600) -> socket.socket:
    """Listen on a Unix socket at `path`. From its creation on, only users that `mode` permits can connect.

    A socket that no process listens on any more is replaced; any other existing file is an error.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        previous = os.umask(0o777 & ~mode)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenerRefused(f"cannot listen on {path}: {error.strerror or error}") from error
    return _prepared(sock)


def inherited(descriptor: int) -> socket.socket:
    """Return the listening socket that the parent process or systemd passed as `descriptor`."""
    try:
        sock = socket.socket(fileno=descriptor)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenerRefused(f"descriptor {descriptor} is no socket: {error.strerror}") from error
    if not listening:
        sock.detach()  # it belongs to the process that opened it
        raise ListenerRefused(f"descriptor {descriptor} is a socket that does not listen")
    return _prepared(sock)


def _remove_dead(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(f"{path} exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise OSError("another process already listens there")


def _prepared(sock: socket.socket) -> socket.socket:
    """Make the socket non-blocking; on TCP, set the options that Linux copies to each accepted connection."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        # Without TCP_NODELAY answers wait up to 40 ms for the client's acknowledgement. uvloop and asyncio set it too,
        # but asyncio does not on sockets that were inherited without their protocol number.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock
