"""`kmsd reload`: make the unit's daemon reload its configuration, and report if it succeeded (ExecReload=)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kmsd.config.reload_verdict import Outcome, ReloadVerdict, now, read_verdict, verdict_path
from kmsd.exit_codes import EXIT_CONFIG

PATIENCE_SECONDS = 110.0
"""Less than the unit's TimeoutStartSec=, which also limits a reload."""
LOOK_SECONDS = 0.05


def add_to(commands: Any) -> None:
    """Declare the command."""
    text = "take over the configuration; called by `systemctl reload kmsd.service`"
    commands.add_parser("reload", help=text).set_defaults(offline=reload)


def reload(_: argparse.Namespace) -> int:
    """Return 0 if the new configuration is in force in all workers. The daemon reads it, not this process."""
    main, path = os.environ.get("MAINPID", ""), verdict_path()
    if not main.isdecimal() or path is None:
        print("kmsd: `kmsd reload` is for the unit: run `systemctl reload kmsd.service`", file=sys.stderr)
        return EXIT_CONFIG
    since = now()
    os.kill(int(main), signal.SIGHUP)
    verdict = _verdict(int(main), path, since)
    if verdict is not None and verdict.outcome is Outcome.DONE:
        return 0
    detail = "the daemon did not answer in time: see its log" if verdict is None else verdict.detail
    print(f"kmsd: reload {verdict.outcome.value if verdict else 'failed'}: {detail}", file=sys.stderr)
    return 1


def _verdict(main: int, path: Path, since: int) -> ReloadVerdict | None:
    """Return the daemon's verdict; None if the daemon has ended or does not answer in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        verdict = read_verdict(path, since)
        if verdict is not None:
            return verdict
        try:
            os.kill(main, 0)
        except ProcessLookupError:
            return None
        time.sleep(LOOK_SECONDS)
    return None
