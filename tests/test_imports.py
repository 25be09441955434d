"""The library's imports point one way: the README lists its modules so that each imports only from those above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "ddpm_lib"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def listed(text: str) -> list[str]:
    """The modules in the order of a list: `a · b (c · d)` is a, b.c, b.d, b; a package in a package stands as b.e.

    A package's own code, in its `__init__.py`, stands below its modules: it may import them, and not they it.
    """
    order = []
    for name, inside in re.findall(r"([\w.]+)(?:\s*\(([^)]*)\))?", text):
        order += [*(f"{name}.{module}" for module in re.findall(r"\w+", inside)), name]
    return order


def modules_of(library: Path) -> dict[str, Path]:
    """The file of every module and package in a library, by its name inside."""
    paths = {".".join(path.relative_to(library).with_suffix("").parts): path for path in library.rglob("*.py")}
    del paths["__init__"]
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imported(path: Path, library: str, modules: set[str]) -> set[str]:
    """Which of a library's modules a file imports, wherever in it, those for annotations alone included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write the whole name, from {library}. …"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in full if name.removeprefix(f"{library}.") in modules}
            names |= inside | ({node.module} if full - inside else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix(f"{library}.") for name in names if name.startswith(f"{library}.")}


def wrong_imports(library: Path, order: list[str]) -> list[str]:
    modules = modules_of(library)
    assert sorted(order) == sorted(modules), "each module stands in the list once, and nothing else does"
    return [
        f"{name} imports {other}, which stands below it"
        for name, path in modules.items()
        for other in sorted(imported(path, library.name, set(modules)))
        if order.index(other) >= order.index(name)
    ]


def test_imports_point_the_way_that_the_readmes_list_of_modules_says():
    after = README.partition("each module imports only from those above it:")[2]
    assert wrong_imports(LIBRARY, listed(after.partition("tests/")[0])) == []


@pytest.mark.parametrize(
    ("module", "line", "problem"),
    [
        ("top", "from lib.base import x", None),
        ("top", "from lib.kit.one import x", None),
        ("top", "from lib import kit", None),
        ("kit.two", "from lib.kit.one import x", None),
        ("kit.two", "from lib.kit import one", None),
        ("kit.__init__", "from lib.kit.two import x", None),
        ("kit.one", "from lib.kit.two import x", "kit.one imports kit.two"),
        ("kit.one", "from lib.kit import x", "kit.one imports kit,"),
        ("kit.one", "def f():\n    from lib import top", "kit.one imports top"),
        ("base", "import lib.kit.one", "base imports kit.one"),
        ("base", "from lib import kit", "base imports kit,"),
        ("base", "from lib.base import x", "base imports base"),
        ("kit.deep.__init__", "from lib.kit.deep.three import x", None),
        ("kit.deep.three", "from lib.kit import one", "kit.deep.three imports kit.one"),
    ],
)
def test_an_import_from_below_is_found_in_packages_too(tmp_path: Path, module: str, line: str, problem: str | None):
    library = tmp_path / "lib"
    names = ("__init__", "base", "kit.__init__", "kit.deep.__init__", "kit.deep.three", "kit.one", "kit.two", "top")
    for name in names:
        path = library.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line if name == module else "")
    found = wrong_imports(library, listed("base · kit.deep (three) · kit (one · two)\n  top"))
    assert len(found) == (problem is not None)
    assert all(problem in entry for entry in found)
