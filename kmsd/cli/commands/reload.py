"""`kmsd reload`: have the daemon of this unit take over its configuration, and tell whether it did (ExecReload=)."""

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
"""Less than TimeoutStartSec= of the unit, which bounds a reload too."""
LOOK_SECONDS = 0.05


def add_to(commands: Any) -> None:
    """Declare the command."""
    text = "take over the configuration; called by `systemctl reload kmsd.service`"
    commands.add_parser("reload", help=text).set_defaults(offline=reload)


def reload(_: argparse.Namespace) -> int:
    """0 if the new configuration is in force in all workers. The daemon reads it, not this process."""
    main, path = os.environ.get("MAINPID", ""), verdict_path()
    if not main.isdecimal() or path is None:
        print("kmsd: `kmsd reload` is for the unit: run `systemctl reload kmsd.service`", file=sys.stderr)
        return EXIT_CONFIG
    since = now()
    os.kill(int(main), signal.SIGHUP)
    told = _verdict(int(main), path, since)
    if told is not None and told.outcome is Outcome.DONE:
        return 0
    detail = "the daemon did not answer in time: see its log" if told is None else told.detail
    print(f"kmsd: reload {told.outcome.value if told else 'failed'}: {detail}", file=sys.stderr)
    return 1


def _verdict(main: int, path: Path, since: int) -> ReloadVerdict | None:
    """The daemon's word; None if it has ended, or says nothing in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        told = read_verdict(path, since)
        if told is not None:
            return told
        try:
            os.kill(main, 0)
        except ProcessLookupError:
            return None
        time.sleep(LOOK_SECONDS)
    return None
