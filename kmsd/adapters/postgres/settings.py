"""Settings of the PostgreSQL adapter: servers, database, role, TLS and deadlines. It imports no driver."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

DEFAULT_PORT = 5432
_URL = re.compile(r"postgresql://(?P<user>[^@/?#]*)@(?P<hosts>[^@/?#]*)/(?P<database>[^@/?#]*)(\?(?P<query>[^#]*))?")
Questions = Literal["auto", "plain", "confirmed"]


class BadUrl(ValueError):
    """The URL of the database cannot be used; the text completes the sentence "store.url …"."""


@dataclass(frozen=True, slots=True)
class Host:
    """One server."""

    name: str
    """Host name, IP address, or the folder of a Unix socket."""
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def is_socket(self) -> bool:
        """True for a Unix socket."""
        return self.name.startswith("/")

    @property
    def is_local(self) -> bool:
        """True for a Unix socket and for a loopback address: what is sent there does not leave this host."""
        if self.is_socket or self.name == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Parts of `postgresql://user@a:5432,b:5432/name`, or of `postgresql://user@/name?host=/run/postgresql`."""

    user: str
    hosts: tuple[Host, ...]
    database: str

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Parse a URL. Raises `BadUrl`."""
        found = _URL.fullmatch(text)
        if found is None or not text.isprintable():
            raise BadUrl("must look like postgresql://user@host:5432/database")
        if ":" in found["user"]:
            raise BadUrl("must not hold a password: name its file in store.password_file")
        user, database = unquote(found["user"]), unquote(found["database"])
        if not user or not database:
            raise BadUrl("must name a user and a database: postgresql://user@host:5432/database")
        return cls(user, _hosts(found["hosts"], found["query"] or ""), database)

    def __str__(self) -> str:
        return f"{','.join(map(str, self.hosts))}/{self.database}"


def _hosts(listed: str, query: str) -> tuple[Host, ...]:
    """Return the servers of a URL. Raises `BadUrl`."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if given.keys() - {"host", "port"}:
        raise BadUrl(f"has no parameter {min(given.keys() - {'host', 'port'})}: host and port alone may follow the `?`")
    if not given:
        if not listed:
            raise BadUrl("must name a host, or the folder of a Unix socket: ?host=/run/postgresql")
        return tuple(_host(one) for one in listed.split(","))
    if listed or not given.get("host", "").startswith("/"):
        raise BadUrl("must name the folder of a Unix socket after `?host=`, and hosts before the database's name")
    return (Host(given["host"], _port(given.get("port", str(DEFAULT_PORT)))),)


def _host(text: str) -> Host:
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        name, _, port = text.partition(":")
    if not name or name.startswith("/"):
        raise BadUrl("must name hosts as a:5432,b:5432")
    return Host(name, _port(port or str(DEFAULT_PORT)))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**16):
        raise BadUrl(f"names a port that is none: {text}")
    return int(text)


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Settings of the adapter."""

    url: DatabaseUrl
    password: str | None = field(default=None, repr=False)
    """None: the server asks for none, as on a Unix socket with peer authentication."""
    tls: ssl.SSLContext | None = None
    """Verifies the servers. None: hosts on this machine alone may be used, without TLS."""
    questions: Questions = "auto"
    """Kind of question that proves freshness; `auto`: confirmed if the server has synchronous standbys."""
    questions_per_second: float = 500.0
    """Most confirmed questions of a process in a second. Each consumes a transaction id of the server."""
    connect_seconds: float = 5.0
    """Deadline for finding the server that accepts writes, however many hosts there are."""
    question_seconds: float = 2.0
    """Deadline of a question. A server that does not answer is given up, and all hosts are asked again."""
    call_seconds: float = 10.0
    """Deadline of every other statement, COMMIT included."""
