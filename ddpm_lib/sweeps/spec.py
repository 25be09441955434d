"""A sweep as its YAML file says it: which notebook, with which parameters, run by run.

    notebook: evaluate_model.ipynb     # beside this file; or a notebook of the course, by its start: "05"
    fixed: {n: 1000}                   # the same in every run
    grid:                              # every value with every other
      guidance_weight: [0, 0.5, 1, 2]
      sampler: [ddim, dpm_solver]

`list` (written-out runs) and `random` (drawn ones) stand beside or in place of `grid`; where several are there, every
entry of one is run with every entry of the others. notebooks/sweeps/README.md has the whole description.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_lib.batch import Parameter, check_parameters, declared_parameters, find_notebook, load_profile
from ddpm_lib.config import read_yaml_file
from ddpm_lib.errors import NotebookError, nearest
from ddpm_lib.identity import code_hash, run_key
from ddpm_lib.sweeps.draws import drawn_runs, sub_mapping

ENTRIES = ("notebook", "about", "profile", "fixed", "grid", "list", "random", "limits")
LONGEST_LABEL = 100  # characters; file systems take 255 bytes


@dataclass(frozen=True)
class Limits:
    """What one run may take; None: as much as it wants."""

    minutes: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    notebook: Path
    given: dict[str, Any]  # what papermill sets
    parameters: dict[str, Any]  # all that the notebook declares, with what is given
    label: str  # what distinguishes it, to read: "guidance_weight=0.5,sampler=ddim"
    key: str  # see `identity.run_key`

    @property
    def name(self) -> str:
        """The name of its executed copy, without ".ipynb": no two runs share one, whatever their code."""
        return f"{self.label[:LONGEST_LABEL]}.{self.key[:8]}"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: every run can start."""

    name: str
    about: str
    notebook: Path
    code: str  # see `identity.code_hash`
    swept: list[str]  # the parameters that differ between runs, in the file's order
    runs: list[SweepRun] = field(repr=False)
    limits: Limits = Limits()


def load_sweep(path: Path) -> Sweep:
    """Read a sweep and check all of it: the file's form, the parameters' names and types, that no run stands twice.

    Raises:
        NotebookError: something is wrong; it names what, and what would be right.
    """
    content = _read(path)
    notebook = _notebook(path, content.get("notebook"))
    base = sub_mapping(path, content, "fixed")
    if "profile" in content:
        base = load_profile(content["profile"]).get(notebook.stem, {}) | base
    parts = [_grid(path, content), _list(path, content), drawn_runs(path, sub_mapping(path, content, "random"))]
    swept = list(dict.fromkeys(name for part in parts for entry in part for name in entry))
    places = [sub_mapping(path, content, "fixed"), *({name for entry in part for name in entry} for part in parts)]
    for name in swept:
        if sum(name in place for place in places) > 1:
            raise NotebookError(f"{path}: {name} is set in two places; keep one")
    declared, code = declared_parameters(notebook), code_hash(notebook)
    runs: dict[str, SweepRun] = {}
    for entries in itertools.product(*(part or [{}] for part in parts)):
        chosen = {name: value for entry in entries for name, value in entry.items()}
        run = _run(path, notebook, declared, base | chosen, swept, code)
        if run.key not in runs:
            runs[run.key] = run
        elif not parts[2]:  # draws may fall on the same values; then they are one run
            raise NotebookError(f"{path}: the run {run.label} stands twice (as {runs[run.key].label}); remove one")
    about = str(content.get("about", "")).strip()
    return Sweep(path.stem, about, notebook, code, swept, list(runs.values()), _limits(path, content))


def chosen_runs(sweep: Sweep, only: Mapping[str, Any]) -> list[SweepRun]:
    """The runs whose parameters have the given values. Raises NotebookError if none has."""
    runs = sweep.runs
    for name, value in only.items():
        known = sweep.runs[0].parameters
        if name not in known:
            raise NotebookError(f"{sweep.notebook.stem} has no parameter {name!r}; {nearest(name, known)}")
        matching = [run for run in runs if run.parameters[name] == value]
        if not matching:
            values = sorted({json.dumps(run.parameters[name]) for run in runs})
            raise NotebookError(f"no run has {name}={value}; there are {', '.join(values)}")
        runs = matching
    return runs


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml_file(path, "sweep", NotebookError)
    if not isinstance(content, dict) or "notebook" not in content:
        raise NotebookError(f"the sweep {path} must be a mapping that names its notebook, as in `notebook: 05`")
    for entry in content:
        if entry not in ENTRIES:
            raise NotebookError(f"{path} has an entry {entry!r}; {nearest(str(entry), ENTRIES)}")
    return content


def _notebook(path: Path, name: Any) -> Path:
    if not isinstance(name, str):
        raise NotebookError(f"{path}: notebook is {name!r}; write a name, in quotes if it is a number")
    if not name.endswith(".ipynb"):
        return find_notebook(name)
    notebook = (path.parent / name).resolve()
    if not notebook.is_file():
        others = [other.name for other in path.parent.glob("*.ipynb")]
        raise NotebookError(f"{path} names the notebook {notebook}, which is not there; {nearest(name, others)}")
    return notebook


def _grid(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = sub_mapping(path, content, "grid")
    for name, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise NotebookError(f"{path}: {name} in grid is {choices!r}; it must be a list of values, as in [0, 1]")
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())] if values else []


def _list(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = content.get("list") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry for entry in entries):
        raise NotebookError(f"{path}: list must hold runs, one a dash, as in `- {{lr: 0.001, seed: 1}}`")
    return entries


def _run(
    path: Path,
    notebook: Path,
    declared: Mapping[str, Parameter],
    values: Mapping[str, Any],
    swept: list[str],
    code: str,
) -> SweepRun:
    try:
        check_parameters(notebook, values)
    except NotebookError as error:
        raise NotebookError(f"{path}: {error}") from error
    given = {name: _as_declared(value, declared[name]) for name, value in values.items()}
    parameters = {name: _default(entry) for name, entry in declared.items()} | given
    label = ",".join(f"{name}={_short(parameters[name])}" for name in swept) or notebook.stem
    return SweepRun(notebook, given, parameters, label, run_key(code, parameters))


def _as_declared(value: Any, parameter: Parameter) -> Any:
    """1 for a float is 1.0, so that it names the same run."""
    return float(value) if parameter.annotation == "float" and type(value) is int else value


def _default(parameter: Parameter) -> Any:
    """The default's value, or its source if it is computed."""
    try:
        return ast.literal_eval(parameter.default)
    except (ValueError, SyntaxError):
        return parameter.default


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")


def _limits(path: Path, content: Mapping[str, Any]) -> Limits:
    values = sub_mapping(path, content, "limits")
    for name, value in values.items():
        if name not in ("minutes", "memory_gb"):
            raise NotebookError(f"{path} has {name!r} in limits; {nearest(str(name), ('minutes', 'memory_gb'))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise NotebookError(f"{path}: {name} in limits is {value!r}; it must be a number above 0")
    return Limits(**values)
