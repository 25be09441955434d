"""Submissions: finds them in a folder, reads what strangers hand in, and puts back what they changed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from ddpm_lib.errors import CourseError, InputError

LARGEST = 20 * 1024**2  # bytes of a submission
# Names that no exercise needs. A cheat in Python can always find a way; what is flagged, a person reads.
SUSPICIOUS = {
    *("checks", "challenges", "get_ipython", "displayhook", "In", "_ih", "linecache"),
    *("inspect", "_getframe", "currentframe", "setprofile", "settrace", "modules", "gc"),
    *("importlib", "__import__", "exec", "globals", "builtins", "__builtins__"),
    *("subprocess", "socket", "fork", "_exit", "kill"),
}


def find_submissions(folder: Path, name: str) -> dict[str, Path]:
    """The submissions in a folder, by student: STUDENT.ipynb, STUDENT/NAME.ipynb or STUDENT/NAME/NAME.ipynb.

    A student's folder without such a file counts, too: with the first notebook in it, or a file that does not exist.

    Raises:
        InputError: the folder does not exist or holds nothing, or a student stands there twice.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the one that holds the students' notebooks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            student = path.name
            candidates = [path / name / f"{name}.ipynb", path / f"{name}.ipynb", *sorted(path.glob("*.ipynb"))]
            path = next((one for one in candidates if one.exists()), candidates[1])
        else:
            student = path.stem
        if student in found:
            raise InputError(f"{student} has handed in {found[student]} and {path}; take one of them away")
        found[student] = path
    if not found:
        raise InputError(f"{folder} is empty; put each student's notebook there as STUDENT.ipynb")
    return found


def read_submission(path: Path) -> NotebookNode:
    """The notebook that was handed in.

    Raises:
        CourseError: it is no notebook, or too large.
    """
    if path.is_symlink() or not path.is_file():
        raise CourseError("not graded: no file was handed in")
    if path.stat().st_size > LARGEST:
        raise CourseError(f"not graded: the file has {path.stat().st_size / 2**20:.0f} MB; at most {LARGEST >> 20} MB")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # whatever strangers' files do to a parser
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CourseError(f"not graded: not a notebook ({reason})") from error
    return notebook


def restored(notebook: NotebookNode, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """Puts tests and other given cells back as they were released; answers and further cells stay.

    Returns:
        The notebook to grade, and a flag for each thing that had been changed or should be looked at.
    """
    given = {grade_id(cell): cell for cell in released.cells if grade_id(cell)}
    flags, cells, seen = [], [], set()
    for cell in notebook.cells:
        name = grade_id(cell)
        if name not in given or name in seen:
            if name in seen:
                flags.append(f"cell {name} stood there twice; the first one counts")
            cell.metadata.pop("nbgrader", None)
            cells.append(cell)
            continue
        seen.add(name)
        original = deepcopy(given[name])
        if original.metadata.nbgrader.solution:
            original.source = cell.source
        elif cell.source != original.source:
            flags.append(f"cell {name} was changed; restored")
        cells.append(original)
    for name, cell in given.items():
        if name not in seen:
            flags.append(f"cell {name} was deleted; restored")
            cells.insert(_place(name, list(given), cells), deepcopy(cell))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=deepcopy(released.metadata))
    for index, cell in enumerate(notebook.cells):
        cell.id = grade_id(cell) or f"own-{index}"
    return notebook, flags + _suspicious(notebook.cells)


def grade_id(cell: NotebookNode) -> str:
    """The name that nbgrader knows a cell by; empty for other cells."""
    mine = cell.metadata.get("nbgrader")
    return str(mine.get("grade_id", "")) if isinstance(mine, Mapping) else ""


def _place(name: str, order: list[str], cells: list[NotebookNode]) -> int:
    """Where a deleted cell belongs: after the nearest one before it that is there."""
    present = {grade_id(cell): index for index, cell in enumerate(cells)}
    before = [present[other] for other in order[: order.index(name)] if other in present]
    return before[-1] + 1 if before else 0


def _suspicious(cells: list[NotebookNode]) -> list[str]:
    flags = []
    for cell in cells:
        mine: Mapping[str, Any] = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or mine.get("locked"):
            continue
        try:
            tree = ast.parse(cell.source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {part for alias in node.names for part in alias.name.split(".")}
                names |= set((getattr(node, "module", None) or "").split("."))
        if found := sorted(names & SUSPICIOUS):
            flags.append(f"look at cell {cell.id}: it uses {', '.join(found)}")
    return flags
