"""Logs in to a SoftHSM2 token again and again, killed at each write to its own file; run by test_login_cuts.py.

    LD_PRELOAD=… python -m tests.faults.login_cuts CASE

CASE is a file with a `Case`. For each cut the token's files are those of the template. The process that logs in is a
fork of this one, and is killed. What it left must open, by the same PIN, and every key must be there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from kmsd.adapters.pkcs11 import Pkcs11Token, TokenSettings
from kmsd.domain.material import Algorithm
from tests.support.write_cuts import Moment, arm, writes

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM


class Case(msgspec.Struct):
    """A token, and how its owner left it."""

    module: str
    label: str
    pin: bytes
    """The one that is right now."""
    objects: str
    """Where the token's files belong."""
    template: str
    """Where they are kept."""
    start_lock: str
    keys: dict[str, bytes]
    """Object ids, as hex, and what each has sealed."""

    async def log_in(self) -> None:
        """Log in, and open everything."""
        settings = TokenSettings(
            module=Path(self.module),
            pin=self.pin,
            label=self.label,
            token_dir_sync=Path(self.objects),
            start_lock=Path(self.start_lock),
        )
        token = await Pkcs11Token.open(settings)
        for key, sealed in self.keys.items():
            assert await token.decrypt(bytes.fromhex(key), XAES, sealed, AAD) == b"text"
        await token.close()

    def prepare(self) -> None:
        """Put the token's files back."""
        shutil.rmtree(self.objects, ignore_errors=True)
        shutil.copytree(self.template, self.objects)


class Report(msgspec.Struct):
    """What was done, and whatever was not as it must be."""

    writes: int = 0
    emptied: int = 0
    """Cuts that left an empty token.object."""
    wrong: list[str] = []


def in_fork(act: Callable[[], None], status: Callable[[], int] = lambda: 0) -> int:
    """Do it in a fork, since a module is initialised once in a process; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            act()
            code = status()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def log_in(case: Case, number: int = 0, moment: Moment = Moment.BEFORE) -> None:
    """Log in, and die at the write `number`; 0: at none."""
    arm(number, moment)
    asyncio.run(case.log_in())


def cut(case: Case, number: int, moment: Moment, report: Report) -> None:
    """One death, and a login after it."""
    case.prepare()
    name = f"write {number}, {moment.name}"
    if in_fork(lambda: log_in(case, number, moment)) >= 0:
        report.wrong.append(f"{name}: it was not killed")
    report.emptied += any(path.stat().st_size == 0 for path in Path(case.objects).glob("*/token.object"))
    if in_fork(lambda: log_in(case)) != 0:
        report.wrong.append(f"{name}: it does not open afterwards")


def main() -> None:
    """Print the report."""
    case, report = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Case), Report()
    case.prepare()
    report.writes = in_fork(lambda: log_in(case), writes)
    for number in range(1, report.writes + 1):
        for moment in Moment:
            cut(case, number, moment, report)
    print(msgspec.json.encode(report).decode())  # noqa: T201


if __name__ == "__main__":
    main()
