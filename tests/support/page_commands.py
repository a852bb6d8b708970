"""The commands of a page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands(page: str, name: str) -> str:
    """The code block of a page that is marked `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found is not None, f"{page} has no block {name}"
    return found[1]
