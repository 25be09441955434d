"""A whole course with made students, from the released notebook to the table, and what bad submissions come to."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from planted import SOURCE, answered, filled_in, solutions
from planted_ps1 import PLANTED
from traitlets.config.loader import PyFileConfigLoader
from typer.testing import CliRunner

from ddpm_lib.cli import app
from ddpm_lib.course import assignments, sandbox
from ddpm_lib.course.grading import Result, SafeExecute, result_path, settings
from ddpm_lib.errors import CourseError, InputError

ONE_STEP = solutions("ps1")["one-step"]
CELL_SECONDS = 6


@dataclass(frozen=True)
class Graded:
    """The course's folder after a release, a grading, feedback and report."""

    folder: Path
    submissions: Path
    results: dict[str, Result]
    table: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Graded:
    if reason := sandbox.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(SOURCE / "ps1", folder / "source" / "ps1")
    submissions = folder / "handed-in"
    submissions.mkdir()
    hand_in_everything(assignments.release("ps1", folder), submissions)
    results = assignments.grade("ps1", submissions, folder, jobs=2, limit=60, cell_seconds=CELL_SECONDS)
    assignments.feedback("ps1", folder, jobs=2)
    rows = csv.DictReader(assignments.report("ps1", folder).open(encoding="utf-8"))
    return Graded(folder, submissions, {r.student: r for r in results}, {row["student"]: row for row in rows})


def hand_in_everything(released: Path, folder: Path) -> None:
    def hand_in(student: str, answers: dict[str, str], edit: Callable[[NotebookNode], None] = lambda _: None) -> None:
        notebook = filled_in(released, answers)
        edit(notebook)
        nbformat.write(notebook, folder / f"{student}.ipynb")

    def changed_and_deleted(notebook: NotebookNode) -> None:
        notebook.cells = [cell for cell in notebook.cells if cell.id != "test-q-sample"]
        next(cell for cell in notebook.cells if cell.id == "test-one-step").source = "pass"

    right = solutions("ps1")
    hand_in("ada", right | {"written-shrink": "The variances add up."})
    hand_in("ben", right | answered("ps1", "q-sample", PLANTED["q-sample"].mistakes[0]))
    hand_in("blank", {})
    alternatives = {exercise: planted.alternatives[0] for exercise, planted in PLANTED.items()}
    loud = "import os\n" + ONE_STEP.replace("    return", "    os.write(2, b'a warning')\n    return")
    hand_in("cem", right | alternatives | {"one-step": loud})
    hand_in("hang", right | {"one-step": "def one_step(x, beta, z):\n    while True: pass"})
    hand_in("crash", right | {"one-step": "import os\nos._exit(1)"})
    hand_in("giga", right | {"one-step": ONE_STEP + "\nfor _ in range(10**4): print('x' * 10**5)"})
    bomb = "\nimport os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    hand_in("fork", right | {"one-step": ONE_STEP + bomb})
    wrong = {
        "one-step": "def one_step(x, beta, z): return x",
        "q-sample": "def q_sample(x_0, t, eps, betas): return x_0",
    }
    hand_in("tamper", right | wrong, changed_and_deleted)
    hook = "def one_step(x, beta, z):\n    get_ipython().displayhook(2.0)\n    return x"
    hand_in("hook", right | {"one-step": hook})
    (folder / "text.ipynb").write_text("hello", encoding="utf-8")
    (folder / "nobody").mkdir()
    (folder / "=1+1.ipynb").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(("student", "points"), [("ada", 21), ("cem", 21), ("ben", 17), ("blank", 0)])
def test_points_are_those_of_the_right_answers(graded: Graded, student: str, points: float):
    assert float(graded.table[student]["points"]) == points
    assert graded.results[student].flags == []


def test_the_table_says_what_a_point_is_lost_for_and_what_waits_for_a_person(graded: Graded):
    assert float(graded.table["(most)"]["points"]) == 27
    assert float(graded.table["ben"]["test-q-sample"]) == 0
    assert float(graded.table["ben"]["test-one-step"]) == float(graded.table["(most)"]["test-one-step"])
    assert graded.table["ada"]["waiting"] == "written-shrink"


@pytest.mark.parametrize(
    ("student", "flag"),
    [
        ("hang", f"cell test-one-step ran longer than {CELL_SECONDS} s"),
        ("crash", "the kernel died"),
        ("fork", "the kernel died"),
        ("giga", "cell one-step printed more than"),
        ("tamper", "cell test-one-step was changed; restored"),
        ("tamper", "cell test-q-sample was deleted; restored"),
        ("hook", "it uses displayhook, get_ipython"),
        ("text", "not a notebook"),
        ("nobody", "no file was handed in"),
        ("=1+1", "no name for a folder"),
    ],
)
def test_an_odd_submission_is_flagged_by_name(graded: Graded, student: str, flag: str):
    assert flag in "; ".join(graded.results[student].flags)
    row = graded.table.get(student) or graded.table[f"'{student}"]  # no spreadsheet takes it for a formula
    assert flag in row["flags"]


@pytest.mark.parametrize("student", ["hang", "giga", "hook"])
def test_a_bad_answer_costs_no_more_than_its_exercise(graded: Graded, student: str):
    assert float(graded.table[student]["points"]) >= 19


def test_tampering_and_faked_results_earn_nothing(graded: Graded):
    assert float(graded.table["tamper"]["test-one-step"]) == 0
    assert float(graded.table["tamper"]["test-q-sample"]) == 0
    assert float(graded.table["hook"]["test-one-step"]) == 0


def test_feedback_has_a_page_for_each_graded_student_with_the_message_of_the_mathematics(graded: Graded):
    pages = {page.parts[-3] for page in (graded.folder / "feedback").glob("*/ps1/ps1.html")}
    assert pages == {student for student, result in graded.results.items() if result.graded}
    page = (graded.folder / "feedback" / "ben" / "ps1" / "ps1.html").read_text(encoding="utf-8")
    assert "expected sqrt(alpha_bar_t)" in page


def test_grading_again_does_only_what_is_missing_or_new(graded: Graded):
    paths = {student: result_path(graded.folder, "ps1", student) for student in ("ada", "ben", "blank")}
    before = {student: path.stat().st_mtime_ns for student, path in paths.items()}
    paths["ada"].write_text('{"student": "ada", "fing', encoding="utf-8")  # as if the machine had stopped here
    results = assignments.grade("ps1", graded.submissions, graded.folder, jobs=2, limit=60, cell_seconds=CELL_SECONDS)
    assert {result.student: result.graded for result in results} == {s: r.graded for s, r in graded.results.items()}
    assert paths["ada"].stat().st_mtime_ns != before["ada"]
    assert all(paths[student].stat().st_mtime_ns == before[student] for student in ("ben", "blank"))


def test_without_bubblewrap_nothing_is_graded(graded: Graded, monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda tool: None)
    with pytest.raises(CourseError, match=r"bwrap and prlimit and setpriv not found.*--unsafe"):
        assignments.grade("ps1", graded.submissions, graded.folder)


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    shutil.copytree(SOURCE, folder / "source")
    return folder


@pytest.mark.parametrize("name", assignments.problem_sets(SOURCE.parent))
def test_a_released_notebook_has_no_solution_and_no_hidden_test(name: str, handed_out: Path):
    released = nbformat.read(assignments.release(name, handed_out), as_version=4)
    shown = "\n".join(cell.source for cell in released.cells)
    whole = "\n".join(cell.source for cell in nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells)
    region = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)### END \1", re.DOTALL)
    secret = {line.strip() for _, text in region.findall(whole) for line in text.splitlines()}
    open_lines = {line.strip() for line in region.sub("", whole).splitlines()}
    assert len(secret - open_lines) > 30
    assert (secret - open_lines) & {line.strip() for line in shown.splitlines()} == set()
    assert "SOLUTION" not in shown
    assert "HIDDEN" not in shown
    assert shown.count("raise NotImplementedError") >= 6


def test_the_commands_say_what_is_wrong(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "source")
    run = CliRunner()
    unknown = run.invoke(app, ["course", "release", "ps11", "--course", str(tmp_path)])
    assert (unknown.exit_code, "did you mean ps1?" in unknown.stderr) == (2, True)
    early = run.invoke(app, ["course", "grade", "ps1", str(SOURCE), "--course", str(tmp_path)])
    assert (early.exit_code, "has not been released" in early.stderr) == (1, True)
    nothing = run.invoke(app, ["course", "report", "ps1", "--course", str(tmp_path)])
    assert (nothing.exit_code, "nothing of ps1 has been graded" in nothing.stderr) == (1, True)


def test_nbgraders_own_commands_and_the_formgrader_use_the_sandbox_too():
    loaded = PyFileConfigLoader("nbgrader_config.py", str(SOURCE.parent)).load_config()
    assert loaded == settings(SOURCE.parent)
    assert SafeExecute in loaded.Autograde.autograde_preprocessors


def test_a_student_who_hands_in_twice_is_asked_about(tmp_path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada.ipynb").touch()
    with pytest.raises(InputError, match="ada has handed in"):
        assignments.find_submissions(tmp_path, "ps1")
