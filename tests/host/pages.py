"""What the pages tell the reader to type, and what they say is then printed.

A block that is run has `<!-- test: NAME -->` on the line above its fence. What it prints may follow in a block marked
`<!-- output: NAME -->`. In such a block `…` stands for any text within a line, and a line that is `…` for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.host.image import ROOT
from tests.host.shell import Shell

PAGES = (
    *("README.md", "docs/install.md", "docs/operations-guide.md", "docs/recipes.md"),
    *("docs/monitoring.md", "docs/backup.md"),
)
"""The pages whose every command is run."""
BLOCK = re.compile(r"<!-- (test|output): ([a-z0-9-]+) -->\n```[a-z]*\n(.*?)```", re.DOTALL)

HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)")


@dataclass(frozen=True)
class Block:
    """Commands of a page."""

    page: str
    name: str
    text: str
    output: str | None
    """What the page says that they print; None if it says nothing."""

    @property
    def commands(self) -> list[str]:
        """Each with the lines that continue it, or that are its here-document."""
        found: list[str] = []
        end, continued = "", False
        for line in self.text.splitlines(keepends=True):
            if end or continued:
                found[-1] += line
            elif line.strip() and not line.lstrip().startswith("#"):
                found.append(line)
            if end:
                end = "" if line.strip() == end else end
                continue
            document = HERE_DOCUMENT.search(line)
            end = document[1] if document else ""
            continued = line.endswith(("\\\n", "|\n"))
        return found


def blocks(page: str) -> dict[str, Block]:
    """Every block of a page that is run, by name, in the order of the page."""
    text = (ROOT / page).read_text()
    marked = BLOCK.findall(text)
    outputs = {name: body for kind, name, body in marked if kind == "output"}
    found = {name: Block(page, name, body, outputs.get(name)) for kind, name, body in marked if kind == "test"}
    assert len(found) == sum(kind == "test" for kind, *_ in marked), f"{page} has two blocks of one name"
    assert set(outputs) <= set(found), f"{page} has an output without its block"
    return found


def unmarked(page: str) -> list[str]:
    """The first line of each block of shell commands that no test runs."""
    text = (ROOT / page).read_text()
    run = {body for kind, _, body in BLOCK.findall(text) if kind == "test"}
    return [body.split("\n", 1)[0] for body in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if body not in run]


def agrees(expected: str, printed: str) -> bool:
    """True if `printed` is what a page says, but for what `…` leaves out."""
    lines = [r"(?:.*\n)*?" if line.strip() == "…" else _line(line) for line in expected.strip("\n").splitlines()]
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch("".join(lines), text) is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n"


def walk(
    shell: Shell, page: str, names: Sequence[str], typed: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> str:
    """Run these blocks of a page; each command works, and prints what the page says. What they printed."""
    printed = ""
    for name in names:
        block = blocks(page)[name]
        ran = shell.run(block.text, (typed or {}).get(name, ()))
        said = f"{page}, {name}:\n{block.text}\n{ran.output}"
        assert [command for command in ran.failed if not _warns(*command)] == [], said
        assert "FAIL" not in ran.output, said
        if block.output is not None:
            assert agrees(block.output, ran.output), f"{said}\nexpected:\n{block.output}"
        printed += ran.output
    return printed


def _warns(command: str, status: int) -> bool:
    """True for warnings of `kmsd check`: nobody synchronises the clock of a container."""
    return command.startswith("kmsd check") and status == 1
