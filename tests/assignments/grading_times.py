"""How long a class takes to grade, from a folder of submissions to feedback pages and the table.

    python tests/assignments/grading_times.py ps4 --students 100

Every student but the first has one wrong answer, and all take the challenge, which is what takes longest. The commands
are a teacher's, in a course of its own. Writes runs/bench/grading_NAME.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from planted import SOURCE, answered, filled_in, solutions
from tqdm import tqdm

from ddpm_lib.course.assignments import release
from ddpm_lib.machine import cpu_name

GOAL = 10  # minutes, for a hundred students on two cores


def main(
    name: Annotated[str, typer.Argument(help="The problem set: ps1 … ps6.")] = "ps4",
    students: Annotated[int, typer.Option(min=1)] = 100,
    challenge: Annotated[bool, typer.Option(help="Everybody takes the challenge, or nobody.")] = True,
) -> None:
    """Make a class, then time the teacher's three commands."""
    with tempfile.TemporaryDirectory() as place:
        course, folder = Path(place, "course"), Path(place, "handed-in")
        shutil.copytree(SOURCE / name, course / "source" / name)
        hand_in(release(name, course), name, students, challenge, folder)
        commands = {"grade": [name, str(folder)], "feedback": [name], "report": [name]}
        seconds = {}
        for command, given in tqdm(commands.items(), desc=name):
            start = time.monotonic()
            line = [sys.executable, "-m", "ddpm_lib.cli", "course", command, *given, "--course", str(course)]
            subprocess.run(line, check=True)
            seconds[command] = round(time.monotonic() - start, 1)
        pages = len(list((course / "feedback").glob("*/*/*.html")))
    result = {"name": name, "students": students, "challenge": challenge, "cpu": cpu_name(), "seconds": seconds}
    target = Path("runs/bench") / f"grading_{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**result, "pages": pages}, indent=1))
    total = sum(seconds.values()) / 60
    typer.echo(f"{students} submissions of {name}, {pages} pages: {total:.1f} minutes; the goal is {GOAL} for 100")


def hand_in(released: Path, name: str, students: int, challenge: bool, folder: Path) -> None:
    """Fills the released notebook in for every student: right, but for one planted mistake each."""
    folder.mkdir()
    answers = solutions(name, challenge)
    planted = import_module(f"planted_{name}").PLANTED
    mistakes = cycle((cell, mistake) for cell, exercise in planted.items() for mistake in exercise.mistakes)
    for number in range(students):
        given = answers | (answered(name, *next(mistakes)) if number else {})
        nbformat.write(filled_in(released, given), folder / f"student{number:03d}.ipynb")


if __name__ == "__main__":
    typer.run(main)
