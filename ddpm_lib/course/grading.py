"""Grades one submission by nbgrader, its code in a sandbox, and says what was odd.

It runs in a process of its own, which may be killed at any time.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sysconfig
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute
from traitlets.config import Config

from ddpm_lib.course.sandbox import SandboxedKernel
from ddpm_lib.course.submissions import read_submission, restored
from ddpm_lib.errors import CourseError
from ddpm_lib.files import atomic_write

CELL_SECONDS = 120  # the challenge takes half a minute
MOST_OUTPUT = 100_000  # characters that a cell may print
GRADER_MEMORY = 4 * 1024**3
SHOWN = ("text/plain", "image/png")  # of a rich output: no scripts in the teacher's browser
CUT = f"[more than {MOST_OUTPUT:,} characters printed; stopped]"


@dataclass(frozen=True)
class Task:
    """One submission to grade."""

    course: Path  # the folder of the course, absolute
    name: str  # of the problem set
    student: str
    submission: Path  # the notebook as it was handed in; it is only read
    fingerprint: str  # of the submission and the problem set; goes into the result
    unsafe: bool = False  # run the code without a sandbox
    cell_seconds: int = CELL_SECONDS  # a cell that runs longer is stopped


@dataclass(frozen=True)
class Result:
    """How grading one submission went."""

    student: str
    fingerprint: str
    graded: bool
    flags: list[str] = field(default_factory=list)  # what a person should know or look at
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """Stores it as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Result | None:
        """What was stored; None if there is nothing, or something else."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def result_path(course: Path, name: str, student: str) -> Path:
    """Where the result of grading a submission is kept."""
    return course / "results" / name / f"{student}.json"


class SafeExecute(Execute):
    """Runs the cells in the sandbox, and stops a cell that prints too much."""

    manager: type[AsyncKernelManager] = SandboxedKernel

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.printed: dict[int, int] = {}
        super().__init__(*arguments, **{**options, "kernel_manager_class": self.manager})

    def preprocess(self, nb: NotebookNode, *arguments: Any, **options: Any) -> tuple[NotebookNode, dict[str, Any]]:
        nb, resources = super().preprocess(nb, *arguments, **options)
        for cell in nb.cells:  # nbgrader takes the first error or result; a cell with an error has no other result
            if any(output.output_type == "error" for output in cell.get("outputs", [])):
                cell.outputs = [output for output in cell.outputs if output.output_type != "execute_result"]
        return nb, resources

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            content["name"] = "stdout"  # nbgrader takes a warning on stderr for a failure
        if kind in ("stream", "display_data", "execute_result", "update_display_data"):
            if "data" in content:
                content["data"] = {name: value for name, value in content["data"].items() if name in SHOWN}
            size = len(content.get("text", "")) + sum(len(str(value)) for value in content.get("data", {}).values())
            before = self.printed.get(cell_index, 0)
            self.printed[cell_index] = before + size
            if before > MOST_OUTPUT:
                return None
            if before + size > MOST_OUTPUT:
                self.stopping = asyncio.ensure_future(self.km.interrupt_kernel())
                text = str(content.get("text", ""))[: MOST_OUTPUT - before]
                msg = {**msg, "msg_type": "stream", "content": {"name": "stdout", "text": f"{text}\n{CUT}\n"}}
        elif kind.startswith("comm"):
            return None  # widgets have nothing to show here
        elif kind == "error":
            content["evalue"] = content["evalue"][:MOST_OUTPUT]
            content["traceback"] = [line[:MOST_OUTPUT] for line in content["traceback"][:100]]
        return super().process_message(msg, cell, cell_index)


class UnsafeExecute(SafeExecute):
    """The same on a plain kernel: for machines without bubblewrap, and trusted code."""

    manager = AsyncKernelManager


def settings(course: Path, unsafe: bool = False, cell_seconds: int = CELL_SECONDS) -> Config:
    """nbgrader's configuration for the course in this folder; nbgrader_config.py uses it, too."""
    scripts = sysconfig.get_path("scripts")  # nbgrader calls alembic by its name
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    config = Config()
    config.CourseDirectory.course_id = "ddpm"
    config.CourseDirectory.root = str(course.absolute())
    config.CourseDirectory.db_url = f"sqlite:///{course.absolute()}/gradebook.db?timeout=60"  # seconds: several write
    config.Exchange.root = str(course.absolute())  # not used; nbgrader complains where its own folder is missing
    config.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your code here"}
    config.ClearSolutions.text_stub = "Your answer here."
    config.Execute.timeout = cell_seconds
    config.Execute.raise_on_iopub_timeout = False
    config.HTMLExporter.sanitize_html = True
    run = UnsafeExecute if unsafe else SafeExecute
    steps = Autograde.autograde_preprocessors.default_args[0]
    config.Autograde.autograde_preprocessors = [run if step is Execute else step for step in steps]
    return config


def grade_one(task: Task) -> None:
    """Grades one submission and writes its `Result`; the points go into the gradebook."""
    os.setsid()  # whoever stops it, stops its children with it
    resource.setrlimit(resource.RLIMIT_DATA, (GRADER_MEMORY, GRADER_MEMORY))
    start, path = time.monotonic(), result_path(task.course, task.name, task.student)
    try:
        flags, graded = _grade(task), True
    except CourseError as error:
        flags, graded = [str(error)], False
    except Exception as error:  # whatever a submission does to nbgrader, it is a line in the report
        flags, graded = [f"not graded: {type(error).__name__} {str(error)[:200]}".strip()], False
    Result(task.student, task.fingerprint, graded, flags, round(time.monotonic() - start, 1)).write(path)


def _grade(task: Task) -> list[str]:
    released = nbformat.read(task.course / "release" / task.name / f"{task.name}.ipynb", as_version=4)
    notebook, flags = restored(read_submission(task.submission), released)
    target = task.course / "submitted" / task.student / task.name / f"{task.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, nbformat.writes(notebook).encode())
    outcome = NbGraderAPI(config=settings(task.course, task.unsafe, task.cell_seconds)).autograde(
        task.name, task.student
    )
    if not outcome["success"]:
        log = f"{outcome.get('log', '')}{outcome.get('error', '')}".strip()
        if "DeadKernelError" in log or "Kernel died" in log:
            raise CourseError("; ".join(["not graded: the kernel died: out of memory, or ended by the code", *flags]))
        raise CourseError(f"not graded: {log.splitlines()[-1][:200] if log else 'nbgrader does not say why'}")
    done = nbformat.read(task.course / "autograded" / task.student / task.name / f"{task.name}.ipynb", as_version=4)
    return flags + _odd_outputs(done, task.cell_seconds)


def _odd_outputs(notebook: NotebookNode, seconds: int) -> list[str]:
    flags = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and output.ename == "CellTimeoutError":
                flags.append(f"cell {cell.id} ran longer than {seconds} s and was stopped")
            if output.output_type == "stream" and CUT in output.text:
                flags.append(f"cell {cell.id} printed more than {MOST_OUTPUT:,} characters and was stopped")
    return flags
