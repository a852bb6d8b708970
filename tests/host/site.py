"""What an operator has before a page begins: an HSM with its library, a certificate, and a kmsd.toml that names them.

The HSM is SoftHSM2, under the name of a vendor's library too. Its token lies outside the data folder.
"""

from __future__ import annotations

from tests.host.machine import Machine

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
LIBRARY = "/usr/lib/vendor/libpkcs11.so"
FOLDER = "/srv/hsm"
SOFTHSM_CONF = f"directories.tokendir = {FOLDER}/tokens\nlog.level = ERROR\nlibrary.reset_on_fork = true\n"
DROP_IN = f"[Service]\nReadWritePaths={FOLDER}\n"
TOML = f"""data_dir = "/var/lib/kmsd"
region = "eu-example-1"
account = "123456789012"
public_url = "https://127.0.0.1:8480"
[listen]
tls_certificate = "/etc/kmsd/tls/certificate.pem"
tls_key = "/etc/kmsd/tls/key.pem"
[token]
module = "{SOFTHSM}"
label = "production"
pin_file = "credential:pin"
dir_sync = "{FOLDER}/tokens"
environment = {{ SOFTHSM2_CONF = "/etc/softhsm/softhsm2.conf" }}
[metrics]
"""


def write(host: Machine, path: str, text: str, mode: int = 0o644) -> None:
    """A file of the host, as an editor would leave it."""
    file = host.root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def bring_hsm(host: Machine) -> None:
    """Install the vendor's library, and let the unit reach the HSM; the token is not initialised yet."""
    library = host.root / LIBRARY.lstrip("/")
    library.parent.mkdir(parents=True)
    library.symlink_to(SOFTHSM)
    (host.root / "etc/softhsm").chmod(0o755)
    write(host, "/etc/softhsm/softhsm2.conf", SOFTHSM_CONF)
    tokens = host.root / FOLDER.lstrip("/") / "tokens"
    tokens.mkdir(parents=True)
    tokens.chmod(0o777)
    write(host, "/etc/systemd/system/kmsd.service.d/hsm.conf", DROP_IN)


def make_token(host: Machine, so_pin: str, pin: str) -> None:
    """Initialise the token, for pages that begin after the key ceremony."""
    pins = f"--so-pin {so_pin} --pin {pin}"
    host.run(f"runuser -u kmsd -- softhsm2-util --init-token --free --label production {pins}")


def bring_certificate(host: Machine) -> None:
    """/root/certificate.pem, which is its own authority, and /root/key.pem."""
    host.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=kms.example.com "
        "-addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout key.pem -out certificate.pem"
    )


def configure(host: Machine) -> None:
    """Edit kmsd.toml; owner and mode stay as the installation left them."""
    (host.root / "etc/kmsd/kmsd.toml").write_text(TOML)
