"""The prose of docstrings, comments and pages has no words and openings that a reader has to decode."""

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
"""Words that make persons of processes and rows, or that are no longer in use."""
OPENINGS = ("What", "Whether", "Who", "How", "Of", "As")
"""A first sentence that opens so is a fragment."""
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")


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
    assert dict(words_in(prose)) == {}


def test_words_in_pages() -> None:
    """In README and docs/, decisions aside, which are records."""
    assert dict(words_in(pages())) == {}


def test_openings() -> None:
    """Of docstrings."""
    first = (
        text.split(maxsplit=1)[0] for source in sources() for text in docstrings(ast.parse(source)) if text.strip()
    )
    assert dict(Counter(word for word in first if word in OPENINGS)) == {}
