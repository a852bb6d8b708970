"""Sockets to listen on: what a refusal of the operating system is told as."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from kmsd.wire.http.listeners import ListenerRefused, bind_tcp


def test_a_unit_without_network_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The systemd unit forbids network sockets; whoever configures one is told what to do instead."""

    def forbidden(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(ListenerRefused, match=r"The systemd unit permits no network sockets.*docs/monitoring\.md"):
        bind_tcp("127.0.0.1", 0)
