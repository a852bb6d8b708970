"""Ask a new process whether it finds a token.

Some modules show a token that has come back only after C_Finalize and C_Initialize, which end every login of the
process. A new process asks first, so that the search for one token does not end the logins of the others.

`python -m kmsd.adapters.pkcs11.token_probe` is that process. It does not log in, and gets no PIN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
from pkcs11.exceptions import PKCS11Error

from kmsd.adapters.pkcs11.module import Module
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.settings import TokenSettings
from kmsd.ports import TokenError


class Wanted(msgspec.Struct, frozen=True):
    """The token to look for, as JSON on standard input."""

    module: str
    init_reserved: str | None
    label: str | None
    serial: str | None
    slot: int | None


def finds(settings: TokenSettings) -> bool:
    """True if a new process finds the token. False also if it does not answer in time, or cannot be started."""
    wanted = Wanted(str(settings.module), settings.init_reserved, settings.label, settings.serial, settings.slot)
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=msgspec.json.encode(wanted),
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=settings.start_deadline,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    """Return 0 if the module shows the token, else 1."""
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    settings = TokenSettings(
        module=Path(wanted.module), pin=b"", label=wanted.label, serial=wanted.serial, slot=wanted.slot
    )
    try:
        module = Module.acquire(settings.module, wanted.init_reserved)
        module.ensure_initialized()
        module.find_token(settings)
    except (TokenError, CkrError, PKCS11Error):
        return 1
    module.release(finalize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
