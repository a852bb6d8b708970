"""How many Python calls of kmsd, in how many files, one warm Encrypt makes.

    python -m tests.bench.path_length [--calls]

With `--calls` each call is printed in its order. Calls of libraries are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.support.call_trace import calls_of_encrypt, files_of
from tests.support.harness import harness


def run(folder: Path) -> dict[str, int]:
    """Count. The custody is that of the aim; wrapped material takes as many calls once it is unwrapped."""
    with harness(folder, custody="object") as own:
        calls = calls_of_encrypt(own)
    return {"calls": len(calls), "files": len(files_of(calls))}


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description="Python calls of one warm Encrypt")
    parser.add_argument("--calls", action="store_true", help="print each call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, harness(Path(folder)) as own:
        calls = calls_of_encrypt(own)
    if options.calls:
        print("\n".join(calls))
    print(f"{len(calls)} calls in {len(files_of(calls))} files")


if __name__ == "__main__":
    main()
