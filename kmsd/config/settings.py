"""Configuration: one TOML file becomes one frozen `Config`. Unknown keys are refused, defaults are safe."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path, PosixPath
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from kmsd.config.messages import of_validation, unknown_settings
from kmsd.domain.key_import import WrappingAlgorithm

CREDENTIAL = "credential:"
"""Prefix of a path that names a systemd credential."""
RATES = ("cryptographic", "management", "logs", "sts")
"""Names of the rates in `[rates]`."""
_EVERY_ADDRESS = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 (compared, not bound)
"""Hosts of an address that no client can connect to."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says what is wrong and where."""


class Credential(PosixPath):
    """Path of a systemd credential, written `credential:NAME`. It is resolved when it is opened.

    So commands that read neither PIN nor TLS key work without credentials.
    """

    @property
    def credential(self) -> str:
        """Return the credential's name."""
        return str(self).removeprefix(CREDENTIAL)

    def __fspath__(self) -> str:
        """Return the present location. Raises `ConfigError` if it was not passed to this process."""
        if (fetched := _fetched.get(self.credential)) is not None:
            return f"/proc/self/fd/{fetched}"
        # systemd.exec(5), LoadCredential=
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            return os.path.join(folder, self.credential)  # noqa: PTH118 (it must return a string)
        if _started_by_root:
            raise ConfigError(f"systemd passes {self} to the daemon that it starts: systemctl start kmsd")
        raise ConfigError(f"systemd passes {self} to the daemon, and not to this process: {_as_root()}")


def _as_root() -> str:
    """Return the command to type instead."""
    return f"run it as root: sudo kmsd {shlex.join(sys.argv[1:])}"


_started_by_root = os.getuid() == 0
_fetched: dict[str, int] = {}
"""Descriptors of memory files that hold credentials, by name."""


def keep_credential(name: str, content: bytes) -> None:
    """Make every later open of this credential read `content`, which is kept in the memory of this process."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    _fetched[name] = descriptor


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
    """Placement of calls to the token. `auto` measures the token at the start: calls of less than 100 microseconds run
    on the event loop, others on threads. A call that hangs on the event loop costs a restart of the worker. `never`
    runs all calls on threads, at about 80 microseconds each."""
    dir_sync: Path | None = None
    """A folder to sync before a new key is acknowledged; SoftHSM never syncs its own (its directories.tokendir)."""
    environment: dict[str, str] = {}
    """Environment variables that the module reads, such as SOFTHSM2_CONF."""


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


class MetricsConfig(_Section, frozen=True):
    """`[metrics]`: metrics for Prometheus (docs/monitoring.md)."""

    address: str = ""
    """`unix:/path/of/socket`; or a loopback address such as `127.0.0.1:9480`, which the systemd unit does not permit.
    Empty: nothing is counted."""


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
    import_: ImportConfig = msgspec.field(default=ImportConfig(), name="import")
    listen: ListenConfig = ListenConfig()
    logs: LogsConfig = LogsConfig()
    limits: LimitsConfig = LimitsConfig()
    rates: RatesConfig = RatesConfig()
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
        return [token.pin_file for token in (self.token, self.import_token) if token is not None]

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


def load(path: Path) -> Config:
    """Read the file. Raises `ConfigError`."""
    return parse(read(path), path)


def read(path: Path) -> str:
    """Return the text of the file. Raises `ConfigError`."""
    try:
        return path.read_text()
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} does not exist; name another with --config") from exc
    except PermissionError as exc:
        raise ConfigError(f"{path} cannot be read by this user: {_as_root()}") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not text in UTF-8") from exc


def parse(text: str, path: Path) -> Config:
    """Parse the text of the file at `path`. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}") from exc
    if unknown := unknown_settings(raw, Config):
        raise ConfigError("\n".join(f"{path}: {sentence}" for sentence in unknown))
    try:
        config = msgspec.convert(raw, Config, dec_hook=_decode_path)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: {of_validation(str(exc))}") from exc
    _check(config, path)
    return config


def _decode_path(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return _credential(value) if value.startswith(CREDENTIAL) else Path(value)
    raise NotImplementedError


def _credential(text: str) -> Credential:
    """Return the credential that `text` names. Raises ValueError if it is not a valid name."""
    name = text.removeprefix(CREDENTIAL)
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"{text} is not the name of a credential")
    return Credential(text)


def _is_url(text: str) -> bool:
    """True for scheme, host and port only: anything more would be lost before a request's own path."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and plain and text.isprintable()


def _names_a_token(token: TokenConfig) -> bool:
    return bool(token.label or token.serial or token.slot is not None)


def _check(config: Config, path: Path) -> None:
    """Check the constraints that types cannot express. Raises `ConfigError`."""
    for name, complaint, holds in _constraints(config):
        if not holds:
            raise ConfigError(f"{path}: {name} {complaint}")


def _constraints(config: Config) -> list[tuple[str, str, object]]:
    """Return a setting, the complaint about it, and a value that is true if the setting is right."""
    return [
        ("account", "must be 12 digits", re.fullmatch(r"[0-9]{12}", config.account)),
        ("region", "must look like us-east-1", re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]+", config.region)),
        ("partition", "must look like aws", re.fullmatch(r"aws(-[a-z]+)*", config.partition)),
        (
            "public_url",
            "must look like https://kms.example.com:8443",
            not config.public_url or _is_url(config.public_url),
        ),
        ("workers", "must be 1 to 64", 1 <= config.workers <= 64),  # noqa: PLR2004 (the bound itself)
        ("token", "needs label, serial or slot", _names_a_token(config.token)),
        ("token.sessions", "must be 1 to 64", 1 <= config.token.sessions <= 64),  # noqa: PLR2004 (as above)
        ("audit.file_bytes", "must be 65536 or more", config.audit.file_bytes >= 65536),  # noqa: PLR2004 (as above)
        ("audit.checkpoint_lines", "must be 10 or more", config.audit.checkpoint_lines >= 10),  # noqa: PLR2004
        ("audit.checkpoint_seconds", "must be more than 0", config.audit.checkpoint_seconds > 0),
        ("audit.refusals_per_second", "must be 1 or more", config.audit.refusals_per_second >= 1),
        (
            "import_token",
            "needs label, serial or slot",
            config.import_token is None or _names_a_token(config.import_token),
        ),
        ("rates", "must not be negative", min(getattr(config.rates, name) for name in RATES) >= 0),
        ("rates.burst_seconds", "must be 0.1 to 60", 0.1 <= config.rates.burst_seconds <= 60),  # noqa: PLR2004 (as above)
        (
            "rates",
            "must let each worker grant a call within burst_seconds",
            all(
                rate == 0 or rate * config.rates.burst_seconds >= config.workers
                for rate in (getattr(config.rates, name) for name in RATES)
            ),
        ),
        ("listen.drain_seconds", "must be 0 to 15", 0 <= config.listen.drain_seconds <= 15),  # noqa: PLR2004 (as above)
        ("import.stock", "must be 0 to 100", 0 <= config.import_.stock <= 100),  # noqa: PLR2004 (as above)
        (
            "listen",
            "needs tls_certificate and tls_key together",
            (config.listen.tls_certificate is None) == (config.listen.tls_key is None),
        ),
    ]
