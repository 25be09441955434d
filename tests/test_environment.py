"""environment.yml, the Makefile and pyproject.toml describe one environment."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


EXTRAS = PROJECT["optional-dependencies"]


def installed_extras(text: str) -> list[set[str]]:
    return [set(extras.split(",")) for extras in re.findall(r"-e '?\.\[([\w,]+)\]", text)]


def test_condas_python_is_one_that_the_project_allows():
    (python,) = [entry for entry in CONDA["dependencies"] if str(entry).startswith("python")]
    minor = re.fullmatch(r"python=(\d+\.\d+)", python)
    assert minor, f"{python} should name one minor version"
    assert SpecifierSet(PROJECT["requires-python"]).contains(minor[1])


def test_makes_oldest_python_is_the_projects():
    (oldest,) = re.findall(r"version_info < \((\d+), (\d+)\)", MAKEFILE)
    assert PROJECT["requires-python"] == f">={'.'.join(oldest)}"


def test_conda_gets_its_packages_from_pyproject_and_no_others():
    names = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert [name.split("=")[0] for name in names] == ["python", "pip"]
    assert len(pip) == 1


def test_conda_and_make_install_every_extra_and_only_make_bench_the_benchmarks_peers():
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    every = set(EXTRAS)
    assert installed_extras(pip[0]) == [every - {"bench"}]
    assert installed_extras(MAKEFILE) == [every, every - {"bench"}]  # make bench stands above the environment's rule


def test_make_recognises_condas_environment_by_name():
    assert f"$(filter {CONDA['name']},$(CONDA_DEFAULT_ENV))" in MAKEFILE


@pytest.mark.parametrize(
    "requirement",
    # The benchmark's peers come with make bench.
    [
        *PROJECT["dependencies"],
        *EXTRAS["notebooks"],
        *EXTRAS["test"],
        *EXTRAS["course"],
        *EXTRAS["book"],
        *EXTRAS["sweeps"],
    ],
    ids=lambda text: text,
)
def test_the_running_environment_satisfies(requirement: str):
    parsed = Requirement(requirement)
    assert parsed.specifier.contains(version(parsed.name), prereleases=True)
