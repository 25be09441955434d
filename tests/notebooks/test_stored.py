"""The form of the course's notebooks as they are stored. A new notebook is picked up by itself.

Each rule is a function from a notebook to its problems, so that it can be tried on notebooks with planted faults, too
(test_rules.py).
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import rules

from ddpm_lib.batch import NOTEBOOKS, check_parameters, load_profile

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PROFILES = ("smoke", "laptop", "full")


def test_there_are_notebooks():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_stored_notebook(path: Path, rule: rules.Rule):
    problems = rule(nbformat.read(path, as_version=4))
    assert not problems, f"{path.name}: {rule.__doc__}\n" + "\n".join(problems)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_papermill_sees_every_parameter(path: Path):
    assert not rules.unseen_parameters(path)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_names_every_notebook_and_only_declared_parameters_of_the_right_type(profile: str):
    entries = load_profile(profile)
    assert sorted(entries) == [path.stem for path in PATHS]
    for path in PATHS:
        check_parameters(path, entries[path.stem])


def test_the_laptop_profile_is_the_defaults_all_of_them():
    entries = load_profile("laptop")
    for path in PATHS:
        assert entries[path.stem] == rules.defaults(path)
