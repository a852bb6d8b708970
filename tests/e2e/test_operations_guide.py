"""The operator's pages, walked through from the empty token to the next host, by the commands that stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kmsd.metrics.layout import CODES
from tests.clients import ACCOUNT, REGION, Credentials, client
from tests.daemon import free_port
from tests.tokens import SOFTHSM

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("operations-guide.md", "backup.md", "monitoring.md")
MARKED = re.compile(r"<!-- test: ([a-z-]+) -->\n```sh\n(.*?)```", re.DOTALL)

PRELUDE = """
as_kmsd() {
    local status=0
    "$PYTHON" -m kmsd --config "$ROOT/etc/kmsd/kmsd.toml" "$@" || status=$?
    # Warnings are for the operator to judge: nobody synchronises the clock where tests run, say.
    if [ "$1" = check ] && [ "$status" = 1 ]; then status=0; fi
    return "$status"
}
systemctl() {
    [ "$2 $3" = "kmsd.socket kmsd.service" ]
    case $1 in
        start)
            "$PYTHON" -m kmsd --config "$ROOT/etc/kmsd/kmsd.toml" serve >>"$ROOT/log" 2>&1 </dev/null &
            echo $! >"$ROOT/serve.pid"
            for _ in $(seq 600); do
                curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/readyz" && return
                sleep 0.05
            done
            cat "$ROOT/log" >&2
            return 1 ;;
        stop)
            [ ! -s "$ROOT/serve.pid" ] || kill -TERM "$(cat "$ROOT/serve.pid")"
            flock --timeout 30 "$ROOT/var/lib/kmsd/daemon.lock" true
            rm -f "$ROOT/serve.pid" ;;
    esac
}
"""


class Host:
    """A machine in a folder: its /etc, /srv and /var, and a SoftHSM2 in the place of the HSM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.metrics = free_port(), free_port()
        for name in ("etc/kmsd/credentials", "srv/backups", "srv/anchor", "var/lib/kmsd", "home", "tokens"):
            (root / name).mkdir(parents=True, mode=0o700)
        (root / "softhsm2.conf").write_text(f"directories.tokendir = {root / 'tokens'}\nlog.level = ERROR\n")
        (root / "etc/kmsd/kmsd.toml").write_text(
            f'data_dir = "{root}/var/lib/kmsd"\nregion = "{REGION}"\naccount = "{ACCOUNT}"\n'
            f'[listen]\naddress = "127.0.0.1:{self.port}"\n'
            f'[metrics]\naddress = "127.0.0.1:{self.metrics}"\n'
            f'[token]\nmodule = "{SOFTHSM}"\nlabel = "production"\npin_file = "{root}/etc/kmsd/credentials/pin"\n'
            f'environment = {{ SOFTHSM2_CONF = "{root}/softhsm2.conf" }}\n'
        )

    def run(self, script: str, typed: str = "") -> str:
        """Commands in one shell, with what is typed at their prompts; what they print."""
        for path in ("/etc/kmsd", "/srv/"):
            script = script.replace(path, f"{self.root}{path}")
        script = script.replace("/usr/lib/vendor/libpkcs11.so", str(SOFTHSM)).replace(":9480", f":{self.metrics}")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "SOFTHSM2_CONF": str(self.root / "softhsm2.conf"),
            "ROOT": str(self.root),
            "PYTHON": sys.executable,
            "PORT": str(self.port),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRELUDE + script],
            cwd=self.root / "home",
            env=environment,
            input=typed,
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def credentials(self, name: str) -> Credentials:
        """What `--format env` wrote."""
        found = dict(re.findall(r"^export (\w+)=(\S+)$", (self.root / "home" / name).read_text(), re.MULTILINE))
        return Credentials(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])

    def client(self, name: str) -> object:
        """boto3, with those."""
        return client(f"http://127.0.0.1:{self.port}", self.credentials(name))


@pytest.fixture(name="host")
def _host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    try:
        yield found
    finally:
        found.run("systemctl stop kmsd.socket kmsd.service")


def test_the_pages_from_day_0_to_the_next_host(host: Host) -> None:
    """Each command works where it stands, and does what the page says of it."""
    blocks = {name: text for page in PAGES for name, text in MARKED.findall((DOCS / page).read_text())}

    def step(name: str, typed: str = "") -> str:
        return host.run(blocks.pop(name), typed)

    assert "production" in step("ceremony", "so-pin-0001\nuser-pin-0001\n")
    pin = host.root / "etc/kmsd/credentials/pin"
    assert (pin.read_text(), pin.stat().st_mode & 0o777) == ("user-pin-0001", 0o600)
    assert "FAIL" not in step("init")
    host.run("systemctl start kmsd.socket kmsd.service")
    step("auditor")
    assert "BEGIN PUBLIC KEY" in (host.root / "home/audit-key.pem").read_text()
    assert "billing" in step("first-user")
    admin, billing = host.client("admin.env"), host.client("billing.env")
    key_id = admin.create_key()["KeyMetadata"]["KeyId"]
    blob = billing.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    with pytest.raises(billing.exceptions.ClientError, match="AccessDenied"):
        billing.disable_key(KeyId=key_id)
    assert "AccessDenied" in step("daily")
    step("anchor")
    assert "kmsd_ready" in step("scrape")

    assert "parts" in step("backup")
    assert "nothing was changed" in step("check")
    admin.disable_key(KeyId=key_id)
    assert "restored to" in step("restore")
    assert admin.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Enabled"

    step("pin", "user-pin-0002\n")
    assert pin.read_text() == "user-pin-0002"
    step("lost-pin", "so-pin-0001\nuser-pin-0003\n")
    assert pin.read_text() == "user-pin-0003"
    assert admin.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"

    step("access-keys")
    assert host.client("billing-new.env").decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    with pytest.raises(billing.exceptions.ClientError, match="UnrecognizedClientException"):
        billing.decrypt(CiphertextBlob=blob)

    step("move-from")
    shutil.rmtree(host.root / "var/lib/kmsd")
    (host.root / "var/lib/kmsd").mkdir(mode=0o700)
    step("move-to")
    assert admin.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert blocks == {}


def test_every_command_on_the_pages_is_run() -> None:
    """No block of commands is without its mark."""
    for page in PAGES:
        text = (DOCS / page).read_text()
        assert len(MARKED.findall(text)) == text.count("```sh\n"), page


def test_alerts_are_rules_and_the_guide_knows_each() -> None:
    """The file is what Prometheus takes for rules; the error names in it exist; and each alert has its line."""
    text = (DOCS / "alerts.yaml").read_text()
    guide = (DOCS / "operations-guide.md").read_text()
    (group,) = yaml.safe_load(text)["groups"]
    assert group["name"] == "kmsd"
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 15
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["alert"] in guide
    assert set(re.findall(r"Kmsd[A-Z]\w+", guide)) == set(names)
    coded = {code for codes in re.findall(r'code=~"([^"]+)"', text) for code in codes.split("|")}
    assert coded - set(CODES) == set()
