"""The settings: `Config` is the whole of kmsd.toml, and the other classes are its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.material import TokenName

_EVERY_ADDRESS = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 (compared, not bound)
"""Hosts of an address that no client can connect to."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class TokenConfig(_Section, frozen=True):
    """`[token]`: the token that holds the keys."""

    module: Path
    """The PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so."""
    pin_file: Path
    """Holds the user PIN and nothing else; a systemd credential, or a file that only the daemon can read."""
    label: str = ""
    """The token's label. At least one of label, serial and slot is required; all that are given must match."""
    serial: str = ""
    """The token's serial number, if its label is not unique."""
    slot: int | None = None
    """The slot's number, for modules with permanent slot numbers."""
    object_label: str = "kmsd"
    """CKA_LABEL of all objects that this daemon creates."""
    init_reserved: str = ""
    """A string that the module needs at initialisation (NSS softokn)."""
    sessions: int = 16
    """PKCS#11 sessions, and threads, of each worker."""
    call_deadline_seconds: float = 5.0
    """A call to the token that takes longer fails with DependencyTimeoutException."""
    inline: Literal["auto", "never", "always"] = "auto"
    """Placement of calls to the token. `auto` measures the token at the start: calls of less than 200 microseconds run
    on the event loop, others on threads. A call that hangs on the event loop costs a restart of the worker. `never`
    runs all calls on threads, at about 80 microseconds each."""
    dir_sync: Path | None = None
    """A folder to sync before a new key is acknowledged; SoftHSM never syncs its own (its directories.tokendir). A copy
    of each SoftHSM token's own file is kept there, and restored if an interrupted login has damaged the file."""
    custody: Literal["object", "wrapped"] = "object"
    """Custody of new key material. `object`: as objects in the token. `wrapped`: in the database, wrapped under a
    domain key of the token (docs/custody.md). Existing material stays as it is."""
    session_objects: int = 1_000_000
    """SoftHSM2 only, which keeps 245 bytes of each object that was made in it, also after the object was destroyed. A
    worker that has made this many is replaced as at a reload: no request fails."""
    environment: dict[str, str] = {}
    """Environment variables that the module reads, such as SOFTHSM2_CONF."""


class FurtherTokenConfig(TokenConfig, frozen=True, kw_only=True):
    """`[[tokens]]`: a further token, with the settings of `[token]`. Its keys stay in it."""

    name: str
    """Name of the token in the database, in metrics and in logs; 1 to 32 lower-case letters, digits and hyphens. It
    must not change while the token holds keys."""
    serves: tuple[str, ...] = ("*",)
    """Key specs of new keys that this token holds, such as ML_DSA_65, in preference to `[token]`; `*` for every spec
    that neither `[token]` nor an earlier token offers."""


class ImportConfig(_Section, frozen=True):
    """`[import]`: import of key material."""

    refuse: tuple[WrappingAlgorithm, ...] = ()
    """Wrapping algorithms to refuse although a token offers them, such as RSAES_PKCS1_V1_5."""
    stock: int = 2
    """Wrapping keys kept ready of each kind while that kind is in demand."""


class LogsConfig(_Section, frozen=True):
    """`[logs]`: how log events are stored."""

    compress: bool = False
    """Compress log events before they are encrypted. It costs as much processor time as all other work on a batch."""


class ListenConfig(_Section, frozen=True):
    """`[listen]`: address, TLS and time limits for clients."""

    address: str = "127.0.0.1:8480"
    """HOST:PORT, or `unix:/path/of/socket`; leave it out under systemd, where kmsd.socket has the address. Plain HTTP
    is accepted on loopback and Unix sockets only."""
    tls_certificate: Path | None = None
    """PEM file: the certificate, followed by its chain."""
    tls_key: Path | None = None
    """PEM file: the private key. A `credential:` is read at the start only, and a new key then needs a restart."""
    tls_client_ca: Path | None = None
    """PEM file: if given, clients must present a certificate of this authority."""
    header_seconds: float = 10.0
    """A request's headers must be complete after this time."""
    body_seconds: float = 10.0
    """A request's body must be complete after this time."""
    keepalive_seconds: float = 75.0
    """An idle connection is closed after this time."""
    drain_seconds: float = 2.0
    """When the daemon stops, an idle connection may send one last request within this time."""
    leave_seconds: float = 0.0
    """Behind a load balancer: a daemon that is to stop first answers 503 to `/readyz` for this time, and serves on. It
    must be longer than the balancer takes to notice."""
    connections: int = 12_000
    """Maximum connections of a worker."""


class LimitsConfig(_Section, frozen=True):
    """`[limits]`: resource limits; the defaults are AWS's of today."""

    keys_per_account: int = 100_000
    """Keys of an account, including those pending deletion."""
    aliases_per_key: int = 50
    """Aliases that point to one key."""
    grants_per_key: int = 50_000
    """Grants on one key."""
    policy_bytes: int = 32_768
    """Length of a key policy in UTF-8."""
    tags_per_key: int = 50
    """Tags of one key."""


class IssuerConfig(_Section, frozen=True, kw_only=True):
    """`[[web_identity]]`: an issuer of web tokens whose bearers may assume roles (docs/web-identity.md)."""

    issuer: str
    """URL, as in the claim `iss` of its tokens: https://idp.example.com/tenant."""
    audiences: tuple[str, ...] = ("sts.amazonaws.com",)
    """Tokens must be for one of these audiences."""
    account: str = ""
    """12 digits: the account of the issuer's ARN and of the roles that trust it; by default that of the file."""
    jwks: Path | None = None
    """A file with the issuer's public keys (JWK set); by default the issuer is asked for them."""
    ca: Path | None = None
    """PEM file with the authorities of the issuer's certificate; by default those of the host."""


class RatesConfig(_Section, frozen=True):
    """`[rates]`: calls a second that one principal may make; 0: unlimited (docs/decisions/0014-rates.md)."""

    cryptographic: float = 0.0
    """Encrypt, Decrypt, ReEncrypt, GenerateDataKey…, GenerateRandom, together."""
    management: float = 0.0
    """All other operations of KMS, together."""
    logs: float = 0.0
    """All operations of CloudWatch Logs, together."""
    sts: float = 0.0
    """All operations of STS, together."""
    web_identity: float = 20.0
    """Unsigned calls of STS, which bear a web token: a second and address."""
    burst_seconds: float = 2.0
    """Burst: the calls of this many seconds may come at once."""


class AuditConfig(_Section, frozen=True):
    """`[audit]`: the audit trail (docs/audit.md)."""

    directory: Path | None = None
    """The folder of the trail; by default `audit` in data_dir."""
    file_bytes: int = 67_108_864
    """A writer begins a new file when the present one reaches this size, and each day (UTC)."""
    checkpoint_lines: int = 1000
    """The chain is signed in the token after this many lines at the latest."""
    checkpoint_seconds: float = 60.0
    """The chain is signed in the token after this time at the latest, if anything was written."""
    forward: tuple[str, ...] = ()
    """Destinations of copies: `journal`, `syslog://HOST:PORT`, `syslog+tcp://HOST:PORT`, `syslog+unix:///dev/log`."""
    refusals_per_second: float = 20.0
    """Unauthenticated requests that a worker records one by one; more are counted in one record a second."""


class StoreConfig(_Section, frozen=True):
    """`[store]`: the database (docs/postgresql.md)."""

    url: str = ""
    """Empty: SQLite, in data_dir. Otherwise PostgreSQL: `postgresql://USER@HOST:PORT,HOST:PORT/DATABASE`, of which the
    server that accepts writes is used, or `postgresql://USER@/DATABASE?host=/run/postgresql` for a Unix socket."""
    password_file: Path | None = None
    """Holds the password of the user and nothing else; a systemd credential, or a file that only the daemon can read.
    """
    tls: Literal["verify", "off"] = "verify"
    """`verify`: TLS to every host, whose certificate must be of a trusted authority and name the host. `off` is for
    loopback addresses only. A Unix socket has no TLS in any case."""
    tls_ca: Path | None = None
    """PEM file: the authority of the servers' certificates; by default those that the system trusts."""
    questions: Literal["auto", "plain", "confirmed"] = "auto"
    """Question to the database before each request, which proves that nothing has changed. `confirmed`: the answer
    waits for the synchronous standby, so that a server that was replaced cannot give it. `plain`: it does not, which is
    right for a single server. `auto`: confirmed if the server has synchronous standbys."""
    questions_per_second: float = 500.0
    """Confirmed questions that a worker asks in a second, at most; requests that arrive in between share one."""
    connect_seconds: float = 5.0
    """A server that accepts writes must be found after this time."""
    question_seconds: float = 2.0
    """A question without an answer after this time ends the connection, and all hosts are asked again."""
    call_seconds: float = 10.0
    """Any other statement without an answer after this time ends the connection."""


class MetricsConfig(_Section, frozen=True):
    """`[metrics]`: metrics for Prometheus (docs/monitoring.md)."""

    address: str = ""
    """`unix:/path/of/socket`; or HOST:PORT, which the systemd unit does not permit. Without `tls` it is a loopback
    address such as `127.0.0.1:9480`. Empty: nothing is counted."""
    tls: bool = False
    """Serve metrics over TLS, with the certificate and the client authority of `[listen]`. The address may then be any.
    Requests need no signature: let a firewall admit Prometheus alone."""


class Config(_Section, frozen=True):
    """The whole file."""

    token: TokenConfig
    data_dir: Path = Path("/var/lib/kmsd")
    """Directory of the database, the sealed log events and, by default, the audit trail."""
    region: str = "us-east-1"
    """The region in ARNs and signatures; fixed once there are keys. With a region that AWS does not have, such as
    eu-example-1, a client that ignores its endpoint reaches no service at all."""
    partition: str = "aws"
    """The partition in ARNs."""
    account: str = "000000000000"
    """12 digits: the account in ARNs, which `kmsd init` creates, and the default of the commands."""
    public_url: str = ""
    """URL for clients, such as https://kms.example.com:8443. Empty: `[listen] address`, if clients can use it."""
    workers: int = 2
    """Processes that serve requests."""
    import_token: TokenConfig | None = None
    """`[import_token]`, with the settings of `[token]`: a second token that unwraps what the first cannot, and passes
    it on wrapped."""
    tokens: tuple[FurtherTokenConfig, ...] = ()
    """`[[tokens]]`: further tokens, for kinds of keys that the first one does not offer."""
    import_: ImportConfig = msgspec.field(default=ImportConfig(), name="import")
    listen: ListenConfig = ListenConfig()
    store: StoreConfig = StoreConfig()
    logs: LogsConfig = LogsConfig()
    limits: LimitsConfig = LimitsConfig()
    rates: RatesConfig = RatesConfig()
    web_identity: tuple[IssuerConfig, ...] = ()
    """`[[web_identity]]`: issuers of web tokens whose bearers may assume roles."""
    audit: AuditConfig = AuditConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def client_url(self) -> str | None:
        """Return the URL for clients; None if it cannot be derived and `public_url` is empty."""
        if self.public_url:
            return self.public_url.rstrip("/")
        address = self.listen.address
        if address.startswith("unix:") or address.rpartition(":")[0].strip("[]") in _EVERY_ADDRESS:
            return None
        return f"{'http' if self.listen.tls_certificate is None else 'https'}://{address}"

    @property
    def pins(self) -> list[Path]:
        """Return the paths of the tokens' PIN files."""
        return [token.pin_file for token in (self.token, *self.other_tokens.values())]

    @property
    def store_secrets(self) -> list[Path]:
        """Return the path of the database's password file, if one is used."""
        return [] if self.store.password_file is None or not self.store.url else [self.store.password_file]

    @property
    def other_tokens(self) -> dict[TokenName, TokenConfig]:
        """Return the settings of all tokens but the main one, by name. The daemon serves while they are unavailable."""
        imports = {} if self.import_token is None else {TokenName.IMPORT: self.import_token}
        return {**imports, **{TokenName(further.name): further for further in self.tokens}}

    @property
    def token_names(self) -> frozenset[TokenName]:
        """Return the names of all tokens. A reload does not change them."""
        return frozenset((TokenName.MAIN, *self.other_tokens))

    @property
    def wraps(self) -> frozenset[TokenName]:
        """Return the tokens whose new key material is wrapped."""
        tokens = {TokenName.MAIN: self.token, **self.other_tokens}
        return frozenset(name for name, token in tokens.items() if token.custody == "wrapped")

    @property
    def database(self) -> Path:
        """Return the path of the SQLite file."""
        return self.data_dir / "kmsd.sqlite"

    @property
    def logs_dir(self) -> Path:
        """Return the folder of sealed log events."""
        return self.data_dir / "logs"

    @property
    def audit_dir(self) -> Path:
        """Return the folder of the audit trail."""
        return self.audit.directory or self.data_dir / "audit"
