"""`ddpm course`: the assignments for the teacher; thin wrappers around `assignments.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The assignments: hand out, grade in a sandbox, give feedback, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The problem set: ps1 … ps6.")]
Course = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the course, with its source/.")]
Jobs = Annotated[int | None, typer.Option(metavar="N", help="How many side by side.  [default: one for each core]")]
COURSE = Path("notebooks/assignments")


@app.command()
def release(
    name: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Problem sets.  [default: all]")] = None,
    course: Course = COURSE,
) -> None:
    """Make the notebooks to hand out, without solutions and hidden tests."""
    from ddpm_lib.course.assignments import problem_sets
    from ddpm_lib.course.assignments import release as make

    for one in name or problem_sets(course):
        typer.echo(make(one, course))


@app.command()
def grade(
    name: Name,
    submissions: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="STUDENT.ipynb, or STUDENT/NAME.ipynb, of every student.")
    ],
    course: Course = COURSE,
    jobs: Jobs = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was graded before and has not changed.")] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Without a sandbox: students' code can do what you can do.")
    ] = False,
) -> None:
    """Grade all submissions of a folder. Stopped and called again, it goes on."""
    from ddpm_lib.course.assignments import grade as grade_all

    results = grade_all(name, submissions, course, jobs, unsafe, again)
    for result in results:
        for flag in result.flags:
            typer.echo(f"{result.student}: {flag}")
    graded = sum(result.graded for result in results)
    typer.echo(f"{graded} of {len(results)} graded. Points: ddpm course report {name}")


@app.command()
def feedback(name: Name, course: Course = COURSE, jobs: Jobs = None) -> None:
    """Write a page for each graded student. It shows the hidden tests: give it out after the deadline."""
    from ddpm_lib.course.assignments import feedback as write

    pages = write(name, course, jobs)
    typer.echo(f"{len(pages)} pages: {course / 'feedback'}/STUDENT/{name}/{name}.html")


@app.command()
def report(name: Name, course: Course = COURSE) -> None:
    """Write a table of all points, with what waits for a person and what was odd, as CSV."""
    from ddpm_lib.course.assignments import report as write

    typer.echo(write(name, course))
