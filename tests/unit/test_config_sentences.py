"""What is wrong in kmsd.toml is told in the operator's words, with the name that may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.adapters.postgres.settings import DatabaseUrl
from kmsd.config import settings as configuration
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError

PATH = Path("kmsd.toml")
TOKEN = '[token]\nmodule = "/m"\nlabel = "l"\npin_file = "credential:pin"\n'
FURTHER = TOKEN.replace("[token]", "[[tokens]]")
STORE = f"{TOKEN}[store]\nurl = "
SOCKET = '"postgresql://kmsd@/kmsd?host=/run/postgresql"\n'


def parse(text: str) -> Config:
    """The configuration that this text is."""
    return configuration.parse(text, PATH)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'data_dri = "/x"\n{TOKEN}', "there is no setting data_dri; did you mean data_dir?"),
        (f"{TOKEN}[listn]\n", "there is no table [listn]; did you mean listen?"),
        (f'{TOKEN}[listen]\ntls_kee = "/x"\n', "[listen] has no setting tls_kee; did you mean tls_key?"),
        (f'tls_key = "/x"\n{TOKEN}', "there is no setting tls_key; it belongs under [listen]"),
        (f'{TOKEN}data_dir = "/x"\n', "[token] has no setting data_dir; it belongs above the first table"),
        (f"{TOKEN}[listen]\nqqqq = 1\n", "[listen] has no setting qqqq"),
        (f'workers = "2"\n{TOKEN}', "workers must be a whole number, and is a text in quotes"),
        (f"{TOKEN}[audit]\nforward = [1]\n", "audit.forward[0] must be a text in quotes, and is a whole number"),
        (f"listen = 1\n{TOKEN}", "listen must be a table, and is a whole number"),
        ('[token]\nmodule = "/m"\n', "pin_file is missing under [token]"),
        ("workers = 2\n", "token is missing"),
        ("workers =\n", "is not TOML: "),
        (TOKEN.replace(":pin", ":a/b"), "credential:a/b is not the name of a credential"),
        (f'public_url = "https://kms.example.com/path"\n{TOKEN}', "public_url must look like https://"),
        (f'public_url = "https://a:b@kms.example.com"\n{TOKEN}', "public_url must look like https://"),
        (f'{TOKEN}{FURTHER}name = "PQ"\n', "tokens.name must look like pq-1"),
        (f'{TOKEN}{FURTHER}name = "main"\n', "tokens.name must be unique, and neither main nor import"),
        (f'{TOKEN}{FURTHER}name = "a"\n{FURTHER}name = "a"\n', "tokens.name must be unique"),
        (f'{TOKEN}{FURTHER}name = "a"\nserves = ["RSA_1024"]\n', "tokens.serves must name key specs, or *"),
        (f'{TOKEN}{FURTHER}name = "a"\nserve = ["*"]\n', "[tokens] has no setting serve; did you mean serves?"),
        (f"{TOKEN}{FURTHER}", "name is missing under [tokens[0]]"),
        (
            f'{TOKEN}environment = {{ C = "1" }}\n{FURTHER}name = "a"\nenvironment = {{ C = "2" }}\n',
            "tokens.environment must not change what another token's module reads",
        ),
        (f'{STORE}"mysql://kmsd@a/kmsd"\n', "store.url must look like postgresql://user@host:5432/database"),
        (f'{STORE}"postgresql://kmsd@a/kmsd/x"\n', "store.url must look like postgresql://"),
        (f'{STORE}"postgresql://kmsd:pass@a/kmsd"\n', "store.url must not hold a password"),
        (f'{STORE}"postgresql://@a/kmsd"\n', "store.url must name a user and a database"),
        (f'{STORE}"postgresql://kmsd@a/"\n', "store.url must name a user and a database"),
        (f'{STORE}"postgresql://kmsd@/kmsd"\n', "store.url must name a host, or the folder of a Unix socket"),
        (f'{STORE}"postgresql://kmsd@a:0/kmsd"\n', "store.url names a port that is none: 0"),
        (f'{STORE}"postgresql://kmsd@a,/kmsd"\n', "store.url must name hosts as a:5432,b:5432"),
        (f'{STORE}"postgresql://kmsd@a/kmsd?sslmode=disable"\n', "store.url has no parameter sslmode"),
        (f'{STORE}"postgresql://kmsd@/kmsd?host=a"\n', "store.url must name the folder of a Unix socket"),
        (
            f'{STORE}"postgresql://kmsd@127.0.0.1,db.example.com/kmsd"\ntls = "off"\n',
            "store.tls must be verify: db.example.com:5432 is neither a Unix socket nor a loopback address",
        ),
        (f"{STORE}{SOCKET}call_seconds = 0\n", "store.call_seconds must be 0.1 to 60"),
        (f"{STORE}{SOCKET}questions_per_second = inf\n", "store.questions_per_second must be 1 to 100000"),
        (f'{TOKEN}[[tokens]]\nname = "a"\nmodule = "/m"\npin_file = "/p"\n', "a needs label, serial or slot"),
    ],
)
def test_sentences(text: str, says: str) -> None:
    """Each names file and setting."""
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert str(refused.value).startswith(f"{PATH}")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ("", "http://127.0.0.1:8480"),
        ('[listen]\naddress = "127.0.0.2:1"\ntls_certificate = "/c"\ntls_key = "/k"\n', "https://127.0.0.2:1"),
        ('[listen]\naddress = "[::1]:8480"\n', "http://[::1]:8480"),
        ('[listen]\naddress = "0.0.0.0:8443"\n', None),
        ('[listen]\naddress = "[::]:8443"\n', None),
        ('[listen]\naddress = "unix:/run/kmsd.sock"\n', None),
    ],
)
def test_what_clients_are_told(lines: str, url: str | None) -> None:
    """The address, if a client can connect to it; `public_url` in any case."""
    assert parse(f"{TOKEN}{lines}").client_url == url
    given = f'public_url = "https://kms.example.com:8443/"\n{TOKEN}{lines}'
    assert parse(given).client_url == "https://kms.example.com:8443"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://kmsd@a/keys", ["a:5432"]),
        ("postgresql://kmsd@a:5433,b/keys", ["a:5433", "b:5432"]),
        ("postgresql://kmsd@[::1]:5433,[fd00::2]/keys", ["[::1]:5433", "[fd00::2]:5432"]),
        ("postgresql://kmsd@/keys?host=/run/postgresql&port=5433", ["/run/postgresql:5433"]),
    ],
)
def test_hosts_of_the_database(url: str, hosts: list[str]) -> None:
    """One or several, or a Unix socket, with the user's port or PostgreSQL's."""
    parsed = DatabaseUrl.parse(parse(f'{STORE}"{url}"\n').store.url)
    assert [str(host) for host in parsed.hosts] == hosts
    assert (parsed.user, parsed.database) == ("kmsd", "keys")


@pytest.mark.parametrize("host", ["127.0.0.1:5432", "localhost", "[::1]:5432"])
def test_a_loopback_address_needs_no_tls(host: str) -> None:
    """What is sent there does not leave the host."""
    assert parse(f'{STORE}"postgresql://kmsd@{host}/kmsd"\ntls = "off"\n').store.tls == "off"


def test_a_credential_is_looked_for_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration without it is as good as any; then it is in systemd's folder, or in memory, and only there."""
    monkeypatch.setattr(configuration, "_fetched", {})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    pin = parse(TOKEN).token.pin_file
    assert str(pin) == "credential:pin"
    with pytest.raises(ConfigError, match="credential:pin"):
        pin.read_bytes()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "pin").write_bytes(b"from systemd")
    assert pin.read_bytes() == b"from systemd"
    configuration.keep_credential("pin", b"from memory")
    assert [pin.read_bytes(), pin.read_bytes()] == [b"from memory"] * 2
