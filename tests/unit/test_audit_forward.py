"""Copies elsewhere: what they look like, and that nobody waits for them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail import forwarder as forward
from kmsd.adapters.audit_trail.forwarder import BadTarget, Destination, Forwarder, destination_for
from tests.support.polling import until


class Kept(Destination):
    """A receiver in memory that can be slow, or away."""

    def __init__(self) -> None:
        super().__init__("memory", "worker-0")
        self.records: list[bytes] = []
        self.go = threading.Event()
        self.away = False
        self.poison = b""

    def send(self, record: bytes) -> None:
        """Wait, then keep it."""
        self.go.wait(10)
        if self.away or record == self.poison:
            raise OSError("away")
        self.records.append(record)


def test_a_slow_receiver_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is dropped and counted; all else arrives in order."""
    monkeypatch.setattr(forward, "MAX_QUEUE", 100)
    receiver = Kept()
    forwarder = Forwarder(receiver)
    for number in range(1000):
        forwarder.offer([b"%d" % number])  # would never return, if it waited for the receiver
    receiver.go.set()
    until(lambda: len(receiver.records) + forwarder.dropped == 1000)
    forwarder.close()
    assert receiver.records == [b"%d" % number for number in range(100)]
    assert forwarder.dropped == 900


def test_a_record_that_cannot_be_sent_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long for a datagram, say: it is dropped, the next ones follow."""
    monkeypatch.setattr(forward, "PAUSE_SECONDS", 0.01)
    receiver = Kept()
    receiver.poison = b"5"
    receiver.go.set()
    forwarder = Forwarder(receiver)
    forwarder.offer([b"%d" % number for number in range(10)])
    until(lambda: len(receiver.records) == 9)
    forwarder.close()
    assert (b"5" in receiver.records, forwarder.dropped) == (False, 1)


def test_a_record_too_long_for_a_datagram_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over UDP it is dropped and counted; those around it arrive without a pause, over the same socket."""
    monkeypatch.setattr(forward, "PAUSE_SECONDS", 3600)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(5)
        forwarder = Forwarder.to(f"syslog://127.0.0.1:{syslog.getsockname()[1]}", "worker-0")
        forwarder.offer([b"first", b"x" * 100_000, b"second", b"x" * 100_000])
        forwarder.offer([b"third"])
        received = [syslog.recvfrom(65536) for _ in range(3)]
        forwarder.close()
    assert [message.rpartition(b" - ")[2] for message, _ in received] == [b"first", b"second", b"third"]
    assert len({sender for _, sender in received}) == 1
    assert forwarder.dropped == 2


def test_closing_does_not_wait_for_one_who_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last moment, then what is left is counted as dropped."""
    monkeypatch.setattr(forward, "CLOSE_SECONDS", 0.1)
    receiver = Kept()
    receiver.away = True
    receiver.go.set()
    forwarder = Forwarder(receiver)
    forwarder.offer([b"x"] * 50)
    forwarder.close()  # would never return, if it waited for the receiver
    assert forwarder.dropped == 50


def test_the_journals_own_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields by line, one datagram for each record."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(5)
        monkeypatch.setattr(forward, "JOURNAL_SOCKET", path)
        forwarder = Forwarder.to("journal", "worker-3")
        forwarder.offer([b'{"a":1}'])
        fields = dict(line.split(b"=", 1) for line in journal.recv(65536).splitlines())
        forwarder.close()
    assert fields[b"MESSAGE"] == b'{"a":1}'
    assert fields[b"KMSD_WRITER"] == b"worker-3"


def test_without_a_journal_standard_error_is_read_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line for each record."""
    monkeypatch.setattr(forward, "JOURNAL_SOCKET", tmp_path / "none")
    receiver = destination_for("journal", "worker-0")
    receiver.open()
    receiver.send(b'{"a":1}')
    assert capfd.readouterr().err == '{"a":1}\n'


def test_a_syslog_message() -> None:
    """RFC 5424: priority of the audit facility, version, time, host, name, process, message id, no structured data."""
    receiver = destination_for("syslog://127.0.0.1", "worker-0")
    assert isinstance(receiver, forward.SyslogDestination)
    head, _, rest = receiver.message(b'{"a":1}').partition(b" - ")
    priority, at, host, name, process, message_id = head.split()
    assert (priority, name, message_id, rest) == (b"<110>1", b"kmsd-audit", b"worker-0", b'{"a":1}')
    assert at.endswith(b"Z")
    assert host
    assert process.isdigit()


@pytest.mark.parametrize(
    "target", ["", "file:///x", "syslog://", "syslog://host:0", "syslog://host:99999", "syslog+unix:"]
)
def test_what_cannot_be_forwarded_to(target: str) -> None:
    """Named by the line of the configuration."""
    with pytest.raises(BadTarget):
        destination_for(target, "worker-0")
