"""What the result of a notebook depends on, as one short hash: its code cells, its parameters, the code they import."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from ddpm_lib.errors import NotebookError

LIBRARY = Path(__file__).resolve().parents[1]  # the folder that holds ddpm_lib


def run_key(code: str, parameters: Mapping[str, Any]) -> str:
    """The identity of a run, 16 hexadecimal digits: equal exactly if the same code runs with the same parameters.

    Args:
        code: the notebook's `code_hash`.
        parameters: all of them, those left at their defaults too; JSON values.
    """
    content = json.dumps([code, dict(parameters)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def code_hash(notebook: Path) -> str:
    """A hash of a notebook's code cells and of all the code they import from `ddpm_lib` and from beside the notebook.

    Prose and outputs do not count, nor do comments and formatting of what is imported; the version of Python does, as
    each writes syntax trees down in its own way. Data files count where they lie in a package inside `ddpm_lib`, as
    the shipped weights do. Installed packages do not count.

    Raises:
        NotebookError: the notebook or a module it imports cannot be read.
    """
    cells = _code_cells(notebook)
    roots = (notebook.resolve().parent, LIBRARY)
    try:
        files = {_name(file, roots): file for file in imported_files(cells, roots)}
        code = {name: _digest(file, file.stat().st_mtime_ns, file.stat().st_size) for name, file in files.items()}
    except (OSError, SyntaxError) as error:
        raise NotebookError(f"{notebook.name} imports a module that cannot be read: {error}") from error
    return hashlib.sha256(json.dumps([cells, code], sort_keys=True).encode()).hexdigest()


def imported_files(sources: Iterable[str], roots: Iterable[Path]) -> set[Path]:
    """The files under `roots` that Python sources import, and what those import, and so on.

    A package's data files come with it, except those of a root's outermost packages: code is what lies there.
    """
    found: set[Path] = set()
    names = {name for source in sources for name in _imports(source)}
    seen: set[str] = set()
    while names:
        name = names.pop()
        seen.add(name)
        for file in _files_of(name, roots) - found:
            found.add(file)
            if file.suffix == ".py":
                names |= set(_imports(file.read_text(encoding="utf-8"))) - seen
    return found


def _code_cells(notebook: Path) -> list[str]:
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception as error:  # nbformat lets through whatever JSON, its validator and the file system raise
        raise NotebookError(f"{notebook} cannot be read as a notebook: {error}") from error
    return [cell.source.strip() for cell in cells if cell.cell_type == "code" and cell.source.strip()]


@functools.cache
def _imports(source: str) -> tuple[str, ...]:
    """The names that a source imports, each with those of the packages it lies in."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        try:
            tree = ast.parse(TransformerManager().transform_cell(source))  # a cell with %magics
        except SyntaxError:
            return ()  # it will fail when it runs
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple({outer for name in names for outer in _with_packages(name)})


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _files_of(name: str, roots: Iterable[Path]) -> set[Path]:
    """The file of a module, or the `__init__.py` of a package with the data beside it."""
    for root in roots:
        place = root.joinpath(*name.split("."))
        if place.with_suffix(".py").is_file():
            return {place.with_suffix(".py")}
        if (place / "__init__.py").is_file():
            inside = place.iterdir() if "." in name else ()
            data = {path for path in inside if path.is_file() and path.suffix not in (".py", ".md")}
            return {place / "__init__.py", *data}
    return set()


def _name(file: Path, roots: Iterable[Path]) -> str:
    """The file's name without what differs between machines."""
    return min((str(file.relative_to(root)) for root in roots if file.is_relative_to(root)), key=len)


@functools.cache
def _digest(file: Path, *_changed: int) -> str:
    content = file.read_bytes()
    if file.suffix == ".py":
        content = ast.dump(ast.parse(content)).encode()
    return hashlib.sha256(content).hexdigest()[:16]
