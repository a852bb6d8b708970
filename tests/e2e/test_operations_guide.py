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

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("operations-guide.md", "backup.md", "monitoring.md", "recipes.md", "install.md")
MARKED = re.compile(r"<!-- test: ([a-z-]+) -->\n```sh\n(.*?)```", re.DOTALL)
OUTPUT = re.compile(r"<!-- output: ([a-z-]+) -->\n```text\n(.*?)```", re.DOTALL)
ON_A_BOOTED_HOST = {"start", "daily-backup", "metrics-on", "metrics-units", "renew-tls", "see-tls"}
"""Blocks of the guide, of monitoring, backup and recipes that systemd carries out; here there is none."""

PRELUDE = """
kmsd() {
    local status=0
    "$PYTHON" -m kmsd --config "$ROOT/etc/kmsd/kmsd.toml" "$@" || status=$?
    # Warnings are for the operator to judge: nobody synchronises the clock where tests run, say.
    if [ "$1" = check ] && [ "$status" = 1 ]; then status=0; fi
    return "$status"
}
# There is no user kmsd where tests run.
runuser() { shift 3; "$@"; }
install() {
    local given=()
    while [ $# -gt 0 ]; do case $1 in -o | -g) shift 2 ;; *) given+=("$1"); shift ;; esac; done
    command install "${given[@]}"
}
systemctl() {
    case "$*" in
        "start kmsd.service")
            "$PYTHON" -m kmsd --config "$ROOT/etc/kmsd/kmsd.toml" serve >>"$ROOT/log" 2>&1 </dev/null &
            echo $! >"$ROOT/serve.pid"
            for _ in $(seq 600); do
                curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/readyz" && return
                sleep 0.05
            done
            cat "$ROOT/log" >&2
            return 1 ;;
        "stop kmsd.socket kmsd.service")
            [ ! -s "$ROOT/serve.pid" ] || kill -TERM "$(cat "$ROOT/serve.pid")"
            flock --timeout 30 "$ROOT/var/lib/kmsd/daemon.lock" true
            rm -f "$ROOT/serve.pid" ;;
        *) echo "systemctl $* is not known here" >&2; return 1 ;;
    esac
}
"""


class Host:
    """A machine in a folder: its /etc, /srv and /var, and a SoftHSM2 in the place of the HSM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.metrics = free_port(), free_port()
        for name in ("etc/kmsd/credentials", "srv", "var/lib/kmsd", "root", "tokens"):
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
        for path in ("/etc/kmsd", "/srv/", "/root/", "/var/lib/kmsd"):
            script = script.replace(path, f"{self.root}{path}")
        script = script.replace("/usr/lib/vendor/libpkcs11.so", str(SOFTHSM)).replace(":9480", f":{self.metrics}")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.root / "root"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": str(ROOT),
            "SOFTHSM2_CONF": str(self.root / "softhsm2.conf"),
            "ROOT": str(self.root),
            "PYTHON": sys.executable,
            "PORT": str(self.port),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRELUDE + script],
            cwd=self.root / "root",
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
        found = dict(re.findall(r"^export (\w+)=(\S+)$", (self.root / "root" / name).read_text(), re.MULTILINE))
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
    blocks = blocks_of("operations-guide.md", "backup.md", "monitoring.md")

    def step(name: str, typed: str = "") -> str:
        return host.run(blocks.pop(name), typed)

    assert "production" in step("ceremony", "so-pin-0001\nuser-pin-0001\n")
    pin = host.root / "etc/kmsd/credentials/pin"
    assert (pin.read_text(), pin.stat().st_mode & 0o777) == ("user-pin-0001", 0o600)
    assert "FAIL" not in step("init")
    host.run("systemctl start kmsd.service")
    step("auditor")
    assert "BEGIN PUBLIC KEY" in (host.root / "root/audit-key.pem").read_text()
    assert "user/invoices" in step("first-user")
    admin, invoices = host.client("admin.env"), host.client("invoices.env")
    key_id = admin.create_key()["KeyMetadata"]["KeyId"]
    blob = invoices.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    with pytest.raises(invoices.exceptions.ClientError, match="AccessDenied"):
        invoices.disable_key(KeyId=key_id)
    assert "AccessDenied" in step("daily")
    step("anchor")
    assert "kmsd_ready" in step("scrape")

    assert "parts" in step("backup")
    assert "nothing was changed" in step("check")
    admin.disable_key(KeyId=key_id)
    assert "restored to" in step("restore")
    assert admin.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Enabled"

    walk_the_recipes(host, pin)
    assert admin.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"

    step("move-from")
    shutil.rmtree(host.root / "var/lib/kmsd")
    (host.root / "var/lib/kmsd").mkdir(mode=0o700)
    step("move-to")
    assert admin.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert blocks == {}


def walk_the_recipes(host: Host, pin: Path) -> None:
    """From top to bottom in one shell, as the page says; each prints what it says."""
    blocks = blocks_of("recipes.md")
    script = "".join(f"echo '== {name}'\n{text}" for name, text in blocks.items())
    printed = host.run(f"exec 2>&1\n{script}", "user-pin-0002\nso-pin-0001\nuser-pin-0003\n")
    told = dict(re.findall(r"^== ([a-z-]+)\n(.*?)(?=^== |\Z)", printed, re.DOTALL | re.MULTILINE))
    assert list(told) == list(blocks)
    expected = dict(OUTPUT.findall((DOCS / "recipes.md").read_text()))
    for name in expected.keys() & told.keys():
        lines = expected[name].rstrip("\n").split("\n")
        pattern = "".join(
            r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in lines
        )
        assert re.fullmatch(rf"\n*{pattern}\n*", told[name]), f"{name}:\n{told[name]}"
    assert "successfully" in told["pin"]
    assert "successfully" in told["lost-pin"]
    assert pin.read_text() == "user-pin-0003"
    assert "user/billing" in told["who-used"]
    assert "user/admin" in told["second-directory"]


def blocks_of(*pages: str) -> dict[str, str]:
    """The commands of some pages by name, but for those that need a host that was booted."""
    found = {name: text for page in pages for name, text in MARKED.findall((DOCS / page).read_text())}
    assert found.keys() & ON_A_BOOTED_HOST
    return {name: text for name, text in found.items() if name not in ON_A_BOOTED_HOST}


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
