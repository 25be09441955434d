from __future__ import annotations

from pathlib import Path

import pytest

from ddpm_lib.batch import (
    Parameter,
    check_parameters,
    declared_parameters,
    find_notebook,
    load_profile,
    parse_value,
    plan_series,
    run_series,
)
from ddpm_lib.errors import NotebookError

PARAMETERS = """\
epochs: float = 2.0  # passes over the data
steps: int = 10  # of the sampler
weights: list[float] = [0.0, 1.5]  # guidance
name: str = "basic"  # of the run
quick: bool = False  # leave out the slow part
limit: Optional[int] = None  # images
seed = 0  # no annotation
"""


@pytest.fixture
def course(tmp_path: Path, make_notebook) -> Path:
    """Three notebooks and a profile."""
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    make_notebook(folder / "01_noise.ipynb", "print(T)", parameters="T: int = 10  # steps\nseed: int = 0  # of all")
    make_notebook(folder / "02_train.ipynb", "print(epochs)", parameters=PARAMETERS)
    make_notebook(folder / "03_plain.ipynb", "print('no parameters')")
    (folder / "profiles" / "smoke.yaml").write_text("02_train:\n  epochs: 1e-2\n01_noise:\n  T: 5\n03_plain:\n")
    return folder


@pytest.fixture
def train(course: Path) -> Path:
    return course / "02_train.ipynb"


def test_parameters_are_read_with_annotation_default_and_help(train: Path):
    declared = declared_parameters(train)
    assert declared["epochs"] == Parameter("float", "2.0", "passes over the data")
    assert declared["weights"] == Parameter("list[float]", "[0.0, 1.5]", "guidance")
    assert declared["seed"] == Parameter("", "0", "no annotation")
    assert len(declared) == 7


def test_a_notebook_without_parameters_declares_none(course: Path):
    assert declared_parameters(course / "03_plain.ipynb") == {}


@pytest.mark.parametrize("content", ["", "{}", "not JSON", '{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "broken.ipynb"
    path.write_text(content)
    with pytest.raises(NotebookError, match=r"broken\.ipynb cannot be read"):
        declared_parameters(path)


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 1.5},
        {"epochs": 1},  # an int will do for a float
        {"steps": 3, "name": "x", "quick": True},
        {"weights": [0, 0.5, 4]},
        {"weights": []},
        {"limit": None},
        {"limit": 5},
        {"seed": 3},
    ],
)
def test_values_of_the_declared_type_pass(train: Path, given: dict):
    check_parameters(train, given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": "ten"}, "float"),
        ({"epochs": True}, "float"),
        ({"epochs": None}, "float"),
        ({"steps": 2.0}, "int"),
        ({"steps": True}, "int"),
        ({"quick": 1}, "bool"),
        ({"quick": "yes"}, "bool"),
        ({"name": 3}, "str"),
        ({"weights": 1.0}, "list[float]"),
        ({"weights": [0.5, "one"]}, "list[float]"),
        ({"limit": 2.5}, "Optional[int]"),
        ({"seed": 0.5}, "int"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(train: Path, given: dict, expected: str):
    (name, value) = next(iter(given.items()))
    with pytest.raises(NotebookError) as refusal:
        check_parameters(train, given)
    assert f"02_train: {name} is {value!r}" in str(refusal.value)
    assert str(refusal.value).endswith(f"must be of type {expected}")


def test_an_unknown_parameter_is_refused_with_the_nearest_name(train: Path, course: Path):
    with pytest.raises(NotebookError, match="has no parameter 'epoch'; did you mean epochs"):
        check_parameters(train, {"epoch": 1.0})
    with pytest.raises(NotebookError, match="03_plain has no parameter 'epoch'; it declares none"):
        check_parameters(course / "03_plain.ipynb", {"epoch": 1.0})


def test_an_annotation_that_cannot_be_checked_is_refused_rather_than_passed(tmp_path: Path, make_notebook):
    path = make_notebook(tmp_path / "odd.ipynb", parameters="when: datetime = None  # odd")
    with pytest.raises(NotebookError, match="annotation datetime"):
        check_parameters(path, {"when": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3e-4", 3e-4), ("1E5", 1e5), ("-2.5e+3", -2500.0), ("true", True), ("a b", "a b"), ("[1, 2]", [1, 2])],
)
def test_values_are_written_as_people_write_them(text: str, value: object):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_values_are_never_executed():
    with pytest.raises(NotebookError, match="is not a value"):
        parse_value("!!python/object/apply:os.system ['true']")


def test_a_profile_is_found_by_name_and_by_path(course: Path):
    expected = {"02_train": {"epochs": 0.01}, "01_noise": {"T": 5}, "03_plain": {}}
    assert load_profile("smoke", course) == expected
    assert load_profile(course / "profiles" / "smoke.yaml", course) == expected


def test_an_unknown_profile_is_refused_with_the_nearest_name(course: Path):
    with pytest.raises(NotebookError, match="no profile 'smok'; did you mean smoke"):
        load_profile("smok", course)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("01_noise: {T: 5", "not valid YAML"),
        ("01_noise:\n  T: 5\n  T: 6\n", "'T' stands twice"),
        ("01_noise:\n02_train:\n01_noise:\n", "'01_noise' stands twice"),
        ("- 01_noise\n", "must hold notebooks"),
        ("", "must hold notebooks"),
        ("01_noize: {}\n", "no notebook '01_noize' .*did you mean 01_noise"),
        ("01_n: {}\n", "no notebook '01_n'"),
        ("01_noise: 5\n", "01_noise in .* is 5"),
    ],
)
def test_a_wrong_profile_is_refused(course: Path, content: str, message: str):
    path = course / "mine.yaml"
    path.write_text(content)
    with pytest.raises(NotebookError, match=message):
        load_profile(path, course)


def test_a_missing_profile_file_is_refused(course: Path):
    with pytest.raises(NotebookError, match=r"cannot read the profile nowhere\.yaml: No such file"):
        load_profile("nowhere.yaml", course)


def test_a_profile_that_is_no_text_is_refused(course: Path):
    (course / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NotebookError, match=r"the profile .*mine\.yaml is not valid YAML: .*utf-8"):
        load_profile(course / "mine.yaml", course)


def test_a_notebook_is_found_by_the_start_of_its_name(course: Path, make_notebook):
    assert find_notebook("02", course) == course / "02_train.ipynb"
    assert find_notebook("02_train", course) == course / "02_train.ipynb"
    with pytest.raises(NotebookError, match="no notebook '2'"):
        find_notebook("2", course)
    make_notebook(course / "02_b.ipynb")
    with pytest.raises(NotebookError, match=r"2 notebooks start with '02'.*02_b, 02_train"):
        find_notebook("02", course)


def test_the_plan_is_the_profile_in_order_of_the_course(course: Path):
    plan = plan_series("smoke", folder=course)
    assert [path.stem for path in plan] == ["01_noise", "02_train", "03_plain"]
    assert plan[course / "01_noise.ipynb"] == {"T": 5}


def test_only_narrows_the_plan_down(course: Path):
    assert [path.stem for path in plan_series("smoke", ["03", "02"], folder=course)] == ["02_train", "03_plain"]


def test_an_override_reaches_every_notebook_that_declares_it(course: Path):
    plan = plan_series("smoke", overrides={"seed": 7, "epochs": 2}, folder=course)
    assert list(plan.values()) == [{"T": 5, "seed": 7}, {"epochs": 2, "seed": 7}, {}]


def test_an_override_that_no_notebook_declares_is_refused(course: Path):
    with pytest.raises(NotebookError, match="none of these notebooks has a parameter 'sed'; did you mean seed"):
        plan_series("smoke", overrides={"sed": 7}, folder=course)
    with pytest.raises(NotebookError, match="'T'"):
        plan_series("smoke", only=["02"], overrides={"T": 7}, folder=course)


@pytest.mark.parametrize("last_entry", ["03_plain: {epochs: 1}", "02_train: {epochs: many}"])
def test_nothing_runs_if_the_last_notebook_is_asked_for_wrongly(course: Path, last_entry: str):
    path = course / "mine.yaml"
    path.write_text(f"01_noise: {{T: 5}}\n{last_entry}\n")
    with pytest.raises(NotebookError, match="epochs"):
        run_series(path, folder=course)
    assert not (course.parent / "runs").exists()


def test_an_empty_profile_and_no_jobs_are_refused(course: Path):
    path = course / "empty.yaml"
    path.write_text("{}")
    with pytest.raises(NotebookError, match="names no notebook"):
        run_series(path, folder=course)
    with pytest.raises(NotebookError, match="jobs is 0"):
        run_series("smoke", jobs=0, folder=course)
