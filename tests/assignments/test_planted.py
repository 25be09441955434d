"""Each planted mistake costs exactly its own points and is named; right answers of every style cost nothing."""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module

import pytest
from nbconvert.preprocessors import Preprocessor
from nbgrader.preprocessors import ClearSolutions
from planted import SOURCE, Exercise, Mistake, answered, grade, graded_tests, notebook, solutions

SETS = sorted(path.name for path in SOURCE.iterdir() if path.is_dir())
PLANTED: dict[str, dict[str, Exercise]] = {name: import_module(f"planted_{name}").PLANTED for name in SETS}
MISTAKES = [
    pytest.param(name, exercise, mistake, id=f"{name}-{exercise}-{mistake.name}")
    for name, exercises in PLANTED.items()
    for exercise, planted in exercises.items()
    for mistake in planted.mistakes
]
ALTERNATIVES = [
    pytest.param(name, exercise, code, id=f"{name}-{exercise}-{number}")
    for name, exercises in PLANTED.items()
    for exercise, planted in exercises.items()
    for number, code in enumerate(planted.alternatives, start=1)
]


@pytest.mark.parametrize(("name", "exercise", "mistake"), MISTAKES)
def test_a_planted_mistake_costs_its_own_points_and_is_named(name: str, exercise: str, mistake: Mistake):
    failed = grade(name, answered(name, exercise, mistake))
    assert list(failed) == [f"test-{exercise}"]
    assert mistake.says in failed[f"test-{exercise}"]


@pytest.mark.parametrize(("name", "exercise", "code"), ALTERNATIVES)
def test_another_right_answer_gets_full_marks(name: str, exercise: str, code: str):
    assert grade(name, {exercise: code}) == {}


@pytest.mark.parametrize("name", SETS)
def test_the_reference_gets_full_marks(name: str):
    assert grade(name, {}) == {}


@pytest.mark.parametrize("name", SETS)
def test_a_blank_one_gets_no_points(name: str):
    clear: Preprocessor = ClearSolutions()
    blank, _ = clear.preprocess(deepcopy(notebook(name)), {})
    answers = {cell.id: cell.source for cell in blank.cells if cell.id in solutions(name)}
    assert all("NotImplementedError" in source for source in answers.values())
    assert set(grade(name, answers)) == set(graded_tests(name))


@pytest.mark.parametrize("name", SETS)
def test_every_exercise_has_its_test_and_planted_mistakes(name: str):
    assert [f"test-{exercise}" for exercise in solutions(name)] == list(graded_tests(name))
    assert list(PLANTED[name]) == list(solutions(name))


def test_there_are_six_sets_and_many_planted_mistakes():
    assert SETS == ["ps1", "ps2", "ps3", "ps4", "ps5", "ps6"]
    assert len(MISTAKES) >= 40
