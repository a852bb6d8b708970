"""The configuration: one TOML file to one frozen `Config`. Unknown keys are refused, defaults are safe."""

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
"""A path that begins so names a systemd credential."""
RATES = ("cryptographic", "management", "logs", "sts")
"""The rates of `[rates]`."""
_EVERY_ADDRESS = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 (to be told from others)
"""Hosts of an address that no client can connect to."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says what is wrong and where."""


class Credential(PosixPath):
    """The path of a systemd credential, written `credential:NAME`. It is looked for when something opens it.

    Commands that read neither PIN nor TLS key work without credentials.
    """

    @property
    def credential(self) -> str:
        """Its name."""
        return str(self).removeprefix(CREDENTIAL)

    def __fspath__(self) -> str:
        """Return where it lies now. Raises `ConfigError` if it was not passed to this process."""
        if (fetched := _fetched.get(self.credential)) is not None:
            return f"/proc/self/fd/{fetched}"
        # systemd.exec(5), LoadCredential=
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            return os.path.join(folder, self.credential)  # noqa: PTH118 (a Path would be made of this one)
        if _started_by_root:
            raise ConfigError(f"systemd passes {self} to the daemon that it starts: systemctl start kmsd")
        raise ConfigError(f"systemd passes {self} to the daemon, and not to this process: {_as_root()}")


def _as_root() -> str:
    """What to type instead."""
    return f"run it as root: sudo kmsd {shlex.join(sys.argv[1:])}"


_started_by_root = os.getuid() == 0
_fetched: dict[str, int] = {}
"""Descriptors of memory files with credentials, by name."""


def keep_credential(name: str, content: bytes) -> None:
    """Have every later look at this credential find `content`, which lies in the memory of this process."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    _fetched[name] = descriptor


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class TokenConfig(_Section, frozen=True):
    """`[token]`: where the keys live."""

    module: Path
    """The PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so."""
    pin_file: Path
    """Holds the user PIN and nothing else; a systemd credential, or a file that only the daemon can read."""
    label: str = ""
    """The token's label; label, serial or slot must be given, and all that are given must fit one token."""
    serial: str = ""
    """The token's serial number, where a label is not unique."""
    slot: int | None = None
    """The slot's number, for modules that number them for good."""
    object_label: str = "kmsd"
    """CKA_LABEL of all objects that this daemon makes."""
    init_reserved: str = ""
    """A string that the module wants at initialisation (NSS softokn)."""
    sessions: int = 16
    """PKCS#11 sessions, and threads, of each worker."""
    call_deadline_seconds: float = 5.0
    """A call to the token that takes longer fails with DependencyTimeoutException."""
    inline: Literal["auto", "never", "always"] = "auto"
    """Where calls to the token run. `auto` measures the token at the start, and runs calls of less than 100
    microseconds on the event loop, others on threads. A call that hangs on the event loop costs a restart of the
    worker: `never` has all calls run on threads, at about 80 microseconds each."""
    dir_sync: Path | None = None
    """A folder to sync before a new key is acknowledged; SoftHSM never syncs its own (its directories.tokendir)."""
    environment: dict[str, str] = {}
    """Environment variables that the module reads, such as SOFTHSM2_CONF."""


class ImportConfig(_Section, frozen=True):
    """`[import]`: how key material may come in."""

    refuse: tuple[WrappingAlgorithm, ...] = ()
    """Wrapping algorithms that are refused although a token offers them, such as RSAES_PKCS1_V1_5."""
    stock: int = 2
    """Wrapping keys that are kept ready of each kind while that kind is in demand."""


class ListenConfig(_Section, frozen=True):
    """`[listen]`: where clients come in."""

    address: str = "127.0.0.1:8480"
    """HOST:PORT, or `unix:/path/of/socket`; leave it out under systemd, where kmsd.socket has the address. Plain HTTP
    is accepted on loopback and Unix sockets only."""
    tls_certificate: Path | None = None
    """PEM file: the certificate, followed by its chain."""
    tls_key: Path | None = None
    """PEM file: the private key. A `credential:` is read at the start only, and a new key then needs a restart."""
    tls_client_ca: Path | None = None
    """PEM file: if given, clients must show a certificate of this authority."""
    header_seconds: float = 10.0
    """A request's headers must be complete after this time."""
    body_seconds: float = 10.0
    """A request's body must be complete after this time."""
    keepalive_seconds: float = 75.0
    """An idle connection is closed after this time."""
    drain_seconds: float = 2.0
    """When the daemon stops, an idle connection may send one last request within this time."""
    connections: int = 12_000
    """Connections that a worker holds at most."""


class LimitsConfig(_Section, frozen=True):
    """`[limits]`: resource limits, as AWS has them today."""

    keys_per_account: int = 100_000
    """Keys of an account, those pending deletion included."""
    aliases_per_key: int = 50
    """Aliases that point to one key."""
    grants_per_key: int = 50_000
    """Grants on one key."""
    policy_bytes: int = 32_768
    """Length of a key policy in UTF-8."""
    tags_per_key: int = 50
    """Tags of one key."""


class RatesConfig(_Section, frozen=True):
    """`[rates]`: calls a second that one principal may make; 0: as many as it likes (docs/decisions/0014-rates.md)."""

    cryptographic: float = 0.0
    """Encrypt, Decrypt, ReEncrypt, GenerateDataKey…, GenerateRandom, together."""
    management: float = 0.0
    """All other operations of KMS, together."""
    logs: float = 0.0
    """All operations of CloudWatch Logs, together."""
    sts: float = 0.0
    """All operations of STS, together."""
    burst_seconds: float = 2.0
    """Calls of this many seconds may come at once."""


class AuditConfig(_Section, frozen=True):
    """`[audit]`: the trail of who asked what (docs/audit.md)."""

    directory: Path | None = None
    """The folder of the trail; by default `audit` in data_dir."""
    file_bytes: int = 67_108_864
    """A writer begins a new file when the present one has this size, and each day (UTC)."""
    checkpoint_lines: int = 1000
    """The chain is signed in the token after this many lines at the latest."""
    checkpoint_seconds: float = 60.0
    """The chain is signed in the token after this time at the latest, if anything was written."""
    forward: tuple[str, ...] = ()
    """Where copies go: `journal`, `syslog://HOST:PORT`, `syslog+tcp://HOST:PORT`, `syslog+unix:///dev/log`."""
    refusals_per_second: float = 20.0
    """Unauthenticated requests that a worker records one by one; beyond, they are counted in one record a second."""


class MetricsConfig(_Section, frozen=True):
    """`[metrics]`: figures for Prometheus (docs/monitoring.md)."""

    address: str = ""
    """`unix:/path/of/socket`; or a loopback address such as `127.0.0.1:9480`, which the systemd unit does not permit.
    Empty: nothing is counted."""


class Config(_Section, frozen=True):
    """The whole file."""

    token: TokenConfig
    data_dir: Path = Path("/var/lib/kmsd")
    """Database and audit trail."""
    region: str = "us-east-1"
    """The region in ARNs and signatures; fixed once there are keys. A client that ignores its endpoint reaches nobody
    with a region that AWS does not have, such as eu-example-1."""
    partition: str = "aws"
    """The partition in ARNs."""
    account: str = "000000000000"
    """12 digits: the account in ARNs, which `kmsd init` makes, and the default of the commands."""
    public_url: str = ""
    """What clients are told, such as https://kms.example.com:8443. Empty: `[listen] address`, if they can use it."""
    workers: int = 2
    """Processes that serve requests."""
    import_token: TokenConfig | None = None
    """`[import_token]`, as `[token]`: a second token that unwraps what the first cannot, and passes it on wrapped."""
    import_: ImportConfig = msgspec.field(default=ImportConfig(), name="import")
    listen: ListenConfig = ListenConfig()
    limits: LimitsConfig = LimitsConfig()
    rates: RatesConfig = RatesConfig()
    audit: AuditConfig = AuditConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def client_url(self) -> str | None:
        """Where clients reach the daemon; None if only the operator can say: see `public_url`."""
        if self.public_url:
            return self.public_url.rstrip("/")
        address = self.listen.address
        if address.startswith("unix:") or address.rpartition(":")[0].strip("[]") in _EVERY_ADDRESS:
            return None
        return f"{'http' if self.listen.tls_certificate is None else 'https'}://{address}"

    @property
    def pins(self) -> list[Path]:
        """The files of the tokens' PINs."""
        return [token.pin_file for token in (self.token, self.import_token) if token is not None]

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "kmsd.sqlite"

    @property
    def logs_dir(self) -> Path:
        """The folder of sealed log events."""
        return self.data_dir / "logs"

    @property
    def audit_dir(self) -> Path:
        """The folder of the audit trail."""
        return self.audit.directory or self.data_dir / "audit"


def load(path: Path) -> Config:
    """Read the file. Raises `ConfigError`."""
    return parse(read(path), path)


def read(path: Path) -> str:
    """The text of the file. Raises `ConfigError`."""
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
    """What the text of the file at `path` says. Raises `ConfigError`."""
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
    """Raises ValueError for what cannot be the name of a credential."""
    name = text.removeprefix(CREDENTIAL)
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"{text} is not the name of a credential")
    return Credential(text)


def _is_url(text: str) -> bool:
    """True for scheme, host and port, and nothing that would be lost before a request's own path."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and plain and text.isprintable()


def _names_a_token(given: TokenConfig) -> bool:
    return bool(given.label or given.serial or given.slot is not None)


def _check(config: Config, path: Path) -> None:
    """What types alone cannot say."""
    complaints = [
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
    for name, complaint, holds in complaints:
        if not holds:
            raise ConfigError(f"{path}: {name} {complaint}")
