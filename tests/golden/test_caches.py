"""Every cache is in the register, and the register names caches that exist."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import kmsd
from tests.golden import caches

PACKAGE = Path(kmsd.__file__).parent
TESTS = Path(__file__).parents[1]
REGISTERED = {one.place for group in caches.GROUPS for one in group.caches}
MAKERS = {"cache", "lru_cache"}
INSTANCES = {"PolicyCache", "PartialDecisionCache", "OrderedDict", "dict", "defaultdict", "WeakValueDictionary"}


def name_in(node: ast.expr) -> str:
    """The name that is called: `lru_cache` of `lru_cache(64)(fold)`."""
    while isinstance(node, ast.Call):
        node = node.func
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def is_growing(value: ast.expr | None) -> bool:
    """True for an empty container, or an instance of a cache."""
    if isinstance(value, ast.Dict | ast.List):
        return not (value.keys if isinstance(value, ast.Dict) else value.elts)
    return isinstance(value, ast.Call) and name_in(value) in INSTANCES | MAKERS


def caches_of(path: Path) -> Iterator[str]:
    """The caches of a module that its syntax shows."""
    module = str(path.relative_to(PACKAGE)).removesuffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and any(name_in(one) in MAKERS for one in node.decorator_list):
            yield f"{module}:{node.name}"
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_growing(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                yield f"{module}:{target.id}"


def test_every_cache_of_a_module_is_registered() -> None:
    """A new one states its key, its bound and its end in tests/golden/caches.py."""
    found = {one for path in PACKAGE.rglob("*.py") for one in caches_of(path)}
    assert found - REGISTERED == set()
    # Those of a class are registered by hand, and named by their class.
    assert {one for one in REGISTERED - found if "." not in one and not one.split(":")[1][0].isupper()} == set()


def test_registered_caches_and_tests_exist() -> None:
    """A renamed class, attribute or test is renamed in the register too."""
    for group in caches.GROUPS:
        for one in group.caches:
            module, name = one.place.split(":")
            source = (PACKAGE / f"{module}.py").read_text()
            assert all(part in source for part in name.split(".")), one.place
            file, _, test = one.test.partition("::")
            assert not file or (TESTS / file).is_file(), one.test
            assert not test or f"def {test}(" in (TESTS / file).read_text(), one.test


def test_page() -> None:
    """docs/caches.md is what the register says: run scripts/operation-table."""
    assert caches.PAGE.read_text() == caches.page()
