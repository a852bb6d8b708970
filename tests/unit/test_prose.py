"""The prose of docstrings, comments and pages: words and openings that a reader has to decode, and how many are left.

The counts may only fall. Whoever lowers one lowers the number here, so that it does not rise again.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kmsd

PACKAGE = Path(kmsd.__file__).parent
ROOT = PACKAGE.parent
WORDS = (
    *("whoever", "anew", "nobody", "somebody", "doom", "doomed", "born", "bury", "buried", "told", "lets go", "let go"),
    *("by which", "in the end", "behind everybody's back", "in peace", "he", "his", "himself"),
)
"""Words of persons for processes and rows, and of another century."""
OPENINGS = ("What", "Whether", "Who", "How", "Of", "As")
"""A first sentence that opens so is a fragment."""
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")

LEFT_IN_CODE = {
    "anew": 38,
    "bury": 1,
    "by which": 21,
    "doom": 2,
    "doomed": 8,
    "in the end": 6,
    "let go": 15,
    "lets go": 6,
    "nobody": 88,
    "somebody": 21,
    "told": 58,
    "whoever": 48,
}
LEFT_IN_PAGES = {
    "anew": 9,
    "by which": 3,
    "in the end": 2,
    "nobody": 21,
    "somebody": 13,
    "told": 10,
    "whoever": 6,
}
LEFT_OPENINGS = {
    "As": 51,
    "How": 89,
    "Of": 81,
    "What": 277,
    "Whether": 96,
    "Who": 10,
}


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Every docstring, and the strings that stand behind a constant or field."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield text


def comments(text: str) -> Iterator[str]:
    """Every comment."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def words_in(texts: Iterator[str]) -> Counter[str]:
    """How often each of the words occurs."""
    found: Counter[str] = Counter()
    for text in texts:
        plain = " ".join(text.lower().split())
        for word in WORDS:
            found[word] += len(re.findall(rf"(?<![\w-]){re.escape(word)}(?![\w-])", plain))
    return +found


def sources() -> list[str]:
    """The text of every module."""
    return [path.read_text() for path in sorted(PACKAGE.rglob("*.py"))]


def pages() -> Iterator[str]:
    """The text of every page, without code."""
    decisions = ROOT / "docs" / "decisions"
    for path in [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").rglob("*.md"))]:
        if decisions not in path.parents:
            yield re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)


def test_words_in_code() -> None:
    """In docstrings and comments."""
    texts = sources()
    prose = (part for text in texts for part in (*docstrings(ast.parse(text)), *comments(text)))
    assert dict(words_in(prose)) == LEFT_IN_CODE


def test_words_in_pages() -> None:
    """In README and docs/, decisions aside, which are records."""
    assert dict(words_in(pages())) == LEFT_IN_PAGES


def test_openings() -> None:
    """Of docstrings."""
    first = (
        text.split(maxsplit=1)[0] for source in sources() for text in docstrings(ast.parse(source)) if text.strip()
    )
    assert dict(Counter(word for word in first if word in OPENINGS)) == LEFT_OPENINGS
