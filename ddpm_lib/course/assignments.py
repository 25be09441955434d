"""The assignments for the teacher: hand out, grade in parallel, give feedback, report. Thin over nbgrader."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI

from ddpm_lib.course import sandbox
from ddpm_lib.course.grading import CELL_SECONDS, Result, Task, grade_one, result_path, settings
from ddpm_lib.course.submissions import find_submissions
from ddpm_lib.errors import CourseError, InputError, nearest
from ddpm_lib.files import atomic_write
from ddpm_lib.side_by_side import run_each

COURSE = Path("notebooks/assignments")
LIMIT = 600  # seconds for one submission
STUDENT = re.compile(r"\w[\w.@-]{0,99}")
CHALLENGE = "test-challenge"  # its points come on top


def problem_sets(course: Path) -> list[str]:
    """The names of the problem sets that the course has."""
    return sorted(path.name for path in (course / "source").glob("*") if (path / f"{path.name}.ipynb").is_file())


def release(name: str, course: Path = COURSE) -> Path:
    """Makes the version for students: without solutions and hidden tests. Made again, it replaces the old one.

    Returns:
        The notebook to hand out.

    Raises:
        InputError: there is no such problem set.
        CourseError: nbgrader refuses.
    """
    _check_name(name, course)
    outcome = NbGraderAPI(config=settings(course)).generate_assignment(name, force=True, create=True)
    if not outcome["success"]:
        raise CourseError(f"{name} could not be released: {outcome.get('log', '').strip()}")
    return _released(name, course)


def grade(
    name: str,
    submissions: Path,
    course: Path = COURSE,
    jobs: int | None = None,
    unsafe: bool = False,
    again: bool = False,
    limit: float = LIMIT,
    cell_seconds: int = CELL_SECONDS,
) -> list[Result]:
    """Grades all submissions of a folder, several at a time. Interrupted and called again, it goes on.

    Args:
        name: of the problem set; it has been released.
        submissions: the folder, see `find_submissions`.
        course: the folder of the course.
        jobs: how many side by side; None: one for each core.
        unsafe: run students' code without a sandbox, where bubblewrap is missing.
        again: grade also what has been graded before and has not changed since.
        limit: seconds after which a submission is given up.
        cell_seconds: seconds after which a cell is stopped.

    Returns:
        A result for each student.

    Raises:
        InputError: no such problem set, or no submissions.
        CourseError: it has not been released, or there is no sandbox.
    """
    _check_name(name, course)
    if not unsafe and (reason := sandbox.missing()):
        raise CourseError(f"{reason}. Students' code is not run without a sandbox, unless with --unsafe")
    found = find_submissions(submissions, name)
    problem_set = _released(name, course).read_bytes() + (course / "source" / name / f"{name}.ipynb").read_bytes()
    prints = {student: _fingerprint(path, problem_set) for student, path in found.items()}
    tasks = {}
    for student, path in found.items():
        if not STUDENT.fullmatch(student):
            odd = Result(student, prints[student], False, ["not graded: such a name is no name for a folder"])
            odd.write(result_path(course, name, hashlib.sha256(student.encode()).hexdigest()[:16]))
            continue
        before = Result.read(result_path(course, name, student))
        if again or before is None or before.fingerprint != prints[student]:
            result_path(course, name, student).unlink(missing_ok=True)
            paths = (course.absolute(), name, student, path.absolute())
            tasks[student] = Task(*paths, prints[student], unsafe, cell_seconds)

    def done(student: str, seconds: float) -> None:
        path = result_path(course, name, student)
        if not path.exists():  # it was killed before it could say anything
            why = f"stopped after {limit:.0f} s" if seconds >= limit else "the grading process died"
            Result(student, prints[student], False, [f"not graded: {why}"], round(seconds, 1)).write(path)

    run_each(grade_one, tasks, jobs, limit, "graded", done)
    sandbox.remove_left_behind()
    return [result for result in results(name, course) if result.student in found]


def results(name: str, course: Path = COURSE) -> list[Result]:
    """How grading went for each student, in the order of their names."""
    read = [Result.read(path) for path in (course / "results" / name).glob("*.json")]
    return sorted((result for result in read if result), key=lambda result: result.student)


def feedback(name: str, course: Path = COURSE, jobs: int | None = None) -> list[Path]:
    """Writes each graded student's page: the notebook with points, messages and a person's comments.

    It shows the hidden tests, so it is given out after the deadline.

    Raises:
        InputError: no such problem set.
        CourseError: nothing has been graded.
    """
    _check_name(name, course)
    students = [result.student for result in _graded(name, course) if result.graded]
    run_each(_write_page, {student: (course.absolute(), name, student) for student in students}, jobs, LIMIT, "page")
    pages = [course / "feedback" / student / name / f"{name}.html" for student in students]
    return [page for page in pages if page.exists()]


def report(name: str, course: Path = COURSE) -> Path:
    """Writes a CSV with each student's points by exercise, what waits for a person, and the flags.

    Raises:
        InputError: no such problem set.
        CourseError: nothing has been graded.
    """
    _check_name(name, course)
    graded = _graded(name, course)
    with Gradebook(settings(course).CourseDirectory.db_url, "ddpm") as gradebook:
        notebook = gradebook.find_notebook(name, name)
        worth = {cell.name: cell.max_score for cell in notebook.grade_cells}
        exercises = [cell.name for cell in notebook.source_cells if cell.name in worth]  # in the notebook's order
        rows = [_row(gradebook, name, result, exercises) for result in graded]
    most = sum(points for exercise, points in worth.items() if exercise != CHALLENGE)
    columns = ["student", "points", "waiting", *exercises, "flags"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{"student": "(most)", "points": most, **worth}, *rows])
    path = course / "results" / f"{name}.csv"
    atomic_write(path, text.getvalue().encode())
    return path


def _row(gradebook: Gradebook, name: str, result: Result, exercises: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"student": _harmless(result.student), "flags": _harmless("; ".join(result.flags))}
    try:
        grades = gradebook.find_submission(name, result.student).notebooks[0].grades if result.graded else []
    except (MissingEntry, IndexError):
        grades = []
    scores = {grade.name: grade.score for grade in grades}
    waiting = [grade.name for grade in grades if grade.needs_manual_grade]
    row |= {exercise: scores.get(exercise, 0.0) for exercise in exercises}
    return row | {"points": sum(scores.values()), "waiting": " ".join(waiting)}


def _harmless(text: str) -> str:
    """For a cell that a spreadsheet must not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" and text else text


def _write_page(task: tuple[Path, str, str]) -> None:
    course, name, student = task
    NbGraderAPI(config=settings(course)).generate_feedback(name, student, force=True)


def _fingerprint(path: Path, problem_set: bytes) -> str:
    digest = hashlib.sha256(problem_set)
    with suppress(OSError), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_name(name: str, course: Path) -> None:
    if name not in (known := problem_sets(course)):
        hint = nearest(name, known) if known else f"{course}/source is empty or missing; go to the project's folder"
        raise InputError(f"there is no problem set {name!r}; {hint}")


def _released(name: str, course: Path) -> Path:
    path = course / "release" / name / f"{name}.ipynb"
    if not path.is_file():
        raise CourseError(f"{name} has not been released; first: ddpm course release {name}")
    return path


def _graded(name: str, course: Path) -> list[Result]:
    if not (graded := results(name, course)):
        raise CourseError(f"nothing of {name} has been graded; first: ddpm course grade {name} FOLDER")
    return graded
