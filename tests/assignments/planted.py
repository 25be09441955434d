"""Problem sets, run cell by cell in this process, with other answers put in place of the solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

SOURCE = Path(__file__).resolve().parents[2] / "notebooks" / "assignments" / "source"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer known from real code: the solution with some of its text replaced, or code of its own."""

    name: str
    says: str  # a part of the message that the student gets
    edit: tuple[str, str] | None = None
    code: str | None = None


@dataclass(frozen=True)
class Exercise:
    """What is planted in one exercise, by the id of its solution's cell."""

    mistakes: tuple[Mistake, ...]
    alternatives: tuple[str, ...] = ()  # other correct answers


@cache
def notebook(name: str, challenge: bool = False) -> NotebookNode:
    """A problem set. Its challenge takes minutes: test_challenge_ps4.py and its neighbours are there for it."""
    whole = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
    if not challenge:
        whole.cells = [cell for cell in whole.cells if cell.id not in ("challenge", "test-challenge")]
    return whole


def challenge_answer(name: str, *edits: tuple[str, str]) -> Callable[..., Any]:
    """The reference's function for a set's challenge, with some of its text replaced."""
    names: dict[str, Any] = {}
    for cell in notebook(name, challenge=True).cells:
        if cell.id == "imports":
            exec(compile(cell.source, cell.id, "exec"), names)
        elif cell.id == "challenge":
            source = cell.source
            for old, new in edits:
                assert old in source
                source = source.replace(old, new)
            before = set(names)
            exec(compile(source, cell.id, "exec"), names)
            return next(value for key, value in names.items() if key not in before)
    raise ValueError(f"{name} has no challenge")


def role(cell: NotebookNode, key: str) -> Any:
    return cell.metadata.get("nbgrader", {}).get(key, False)


def graded_tests(name: str) -> dict[str, float]:
    """The points of each test cell, by its id."""
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code" and role(cell, "grade")]
    return {cell.id: cell.metadata.nbgrader.points for cell in cells}


def solutions(name: str, challenge: bool = False) -> dict[str, str]:
    """The code of each solution's cell, by its id."""
    return {c.id: c.source for c in notebook(name, challenge).cells if c.cell_type == "code" and role(c, "solution")}


def filled_in(released: Path, answers: dict[str, str]) -> NotebookNode:
    """A released notebook with answers in their cells, as a student hands it in."""
    notebook = nbformat.read(released, as_version=4)
    for cell in notebook.cells:
        cell.source = answers.get(cell.id, cell.source)
    return notebook


def answered(name: str, exercise: str, mistake: Mistake) -> dict[str, str]:
    """The reference's answers, but for one exercise."""
    if mistake.code is not None:
        return {exercise: mistake.code}
    old, new = mistake.edit
    solution = solutions(name)[exercise]
    assert solution.count(old) >= 1, f"{old!r} is not in the solution of {name}/{exercise}"
    return {exercise: solution.replace(old, new)}


@cache
def _prepared(name: str) -> dict[str, Any]:
    """The names that the cells before the first exercise make, made once."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook(name).cells:
        if cell.cell_type == "code" and not (role(cell, "solution") or role(cell, "grade")):
            exec(compile(cell.source, cell.id, "exec"), names)
    return names


def grade(name: str, answers: dict[str, str]) -> dict[str, str]:
    """Runs every exercise of a problem set; what each failing test cell says, by its id."""
    names, failed = dict(_prepared(name)), {}
    for cell in notebook(name).cells:
        if cell.cell_type != "code" or not (role(cell, "solution") or role(cell, "grade")):
            continue
        source = answers.get(cell.id, cell.source)
        try:
            exec(compile(source, cell.id, "exec"), names)
        except Exception as error:
            if role(cell, "grade"):
                failed[cell.id] = f"{type(error).__name__}: {error}"
            # An error in an answer's cell is the student's business, as in Jupyter; the test will say so.
    return failed
