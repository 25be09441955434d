"""What to run: the parameters that notebooks declare, the profiles that set them, the checked plan."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import papermill
import yaml

from ddpm_lib.config import read_yaml, read_yaml_file
from ddpm_lib.errors import InputError, NotebookError, nearest
from ddpm_lib.execution import Run, result_line, run_notebooks
from ddpm_lib.files import TRAININGS_VARIABLE, temporary_folder
from ddpm_lib.stored import normalised

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
RUNS = NOTEBOOKS.parent / "runs"


class Parameter(NamedTuple):
    """One line of a notebook's cell tagged `parameters`: `epochs: float = 2.0  # passes over the data`."""

    annotation: str  # "" if there is none
    default: str  # as written: Python source
    help: str  # the comment


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook by name, as papermill understands them. Raises NotebookError."""
    try:
        found = papermill.inspect_notebook(notebook)
    except Exception as error:  # papermill lets through whatever JSON, nbformat and itself raise
        raise NotebookError(f"{notebook} cannot be read as a notebook: {error}") from error
    return {
        name: Parameter(entry["inferred_type_name"].replace("None", ""), entry["default"], entry["help"])
        for name, entry in found.items()
    }


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> None:
    """Raise NotebookError if the notebook declares no parameter of a given name, or one of another type."""
    declared = declared_parameters(notebook)
    for name, value in given.items():
        if name not in declared:
            hint = nearest(str(name), declared) if declared else "it declares none"
            raise NotebookError(f"{notebook.stem} has no parameter {name!r}; {hint}")
        expected = declared[name].annotation or _type_of_literal(declared[name].default)
        if expected and not _fits(value, ast.parse(expected, mode="eval").body):
            found = f"{value!r}, a {type(value).__name__}"
            raise NotebookError(f"{notebook.stem}: {name} is {found}; it must be of type {expected}")


def _type_of_literal(source: str) -> str:
    """The type of a default without annotation; "" if it is computed or None: any value may be right then."""
    try:
        value = ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return ""
    return "" if value is None else type(value).__name__


def _fits(value: Any, kind: ast.expr) -> bool:
    match kind:
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int" | "bool" | "str" | "list" | "dict" as name):
            return type(value).__name__ == name  # so that True is no int
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=item):
            return value is None or _fits(value, item)
    raise NotebookError(
        f"cannot check a value against the annotation {ast.unparse(kind)}; "
        "use int, float, bool, str, list, dict, list[…] or Optional[…]"
    )


def parse_value(text: str) -> Any:
    """The value written in a line of a profile, or after `-p name=`. Raises NotebookError."""
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise NotebookError(f"{text!r} is not a value: {' '.join(str(error).split())}") from error


def load_profile(profile: str | Path, folder: Path = NOTEBOOKS) -> dict[str, dict[str, Any]]:
    """The parameters that a profile sets, by notebook: `{"01_forward_noising": {"seed": 0}, …}`.

    `profile` is the name of a file in `folder`/profiles, such as "laptop", or the path of any YAML file.
    Raises NotebookError: no such profile, not YAML, not a mapping, or a notebook that does not exist.
    """
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        known = [file.stem for file in (folder / "profiles").glob("*.yaml")]
        if str(profile) not in known:
            raise NotebookError(
                f"there is no profile {str(profile)!r}; {nearest(str(profile), known)}. "
                "A profile of your own: give the path of a .yaml file"
            )
        path = folder / "profiles" / f"{profile}.yaml"
    content = read_yaml_file(path, "profile", NotebookError)
    if not isinstance(content, dict):
        raise NotebookError(f"the profile {path} must hold notebooks and their parameters, as laptop.yaml does")
    entries = {}
    for stem, values in content.items():
        find_notebook(str(stem), folder, exact=True)
        if not isinstance(values, dict | None):
            raise NotebookError(f"{stem} in {path} is {values!r}; it must hold `name: value` lines")
        entries[str(stem)] = values or {}
    return entries


def find_notebook(name: str, folder: Path = NOTEBOOKS, exact: bool = False) -> Path:
    """The notebook of that name; unless `exact`, the start of a name will do: "04". Raises NotebookError."""
    stems = sorted(path.stem for path in folder.glob("*.ipynb"))
    matches = [stem for stem in stems if stem == name or (not exact and stem.startswith(name))]
    if len(matches) != 1:
        problem = f"{len(matches)} notebooks start with" if matches else "there is no notebook"
        raise NotebookError(f"{problem} {name!r} in {folder}; {nearest(name, matches or stems)}")
    return folder / f"{matches[0]}.ipynb"


def plan_series(
    profile: str | Path,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    folder: Path = NOTEBOOKS,
) -> dict[Path, dict[str, Any]]:
    """The notebooks to run, in order, each with its parameters, all of them checked.

    The profile names the notebooks; `only` narrows them down (names, or their starts). An override applies to
    every chosen notebook that declares the parameter; at least one must. Raises NotebookError.
    """
    entries = load_profile(profile, folder)
    chosen = [find_notebook(name, folder).stem for name in only] or list(entries)
    if not chosen:
        raise NotebookError(f"the profile {profile} names no notebook")
    plan = {find_notebook(stem, folder, exact=True): dict(entries.get(stem, {})) for stem in sorted(chosen)}
    declared = {notebook: declared_parameters(notebook) for notebook in plan}
    for name, value in (overrides or {}).items():
        takers = [notebook for notebook in plan if name in declared[notebook]]
        if not takers:
            known = {known for names in declared.values() for known in names}
            raise NotebookError(f"none of these notebooks has a parameter {name!r}; {nearest(name, known)}")
        for notebook in takers:
            plan[notebook][name] = value
    for notebook, given in plan.items():
        check_parameters(notebook, given)
    return plan


def run_series(
    profile: str | Path,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    out: Path | None = None,
    jobs: int = 1,
    folder: Path = NOTEBOOKS,
) -> list[Run]:
    """Check, then execute the notebooks of a profile (see `plan_series`, `run_notebooks`).

    The executed copies go to `out`, by default runs/<profile> beside the notebooks' folder.
    Raises NotebookError for a wrong wish, before anything runs; failures of cells are in the result.
    """
    if jobs < 1:
        raise NotebookError(f"jobs is {jobs}; it must be at least 1")
    plan = plan_series(profile, only, overrides, folder)
    return run_notebooks(plan, out or folder.parent / "runs" / Path(profile).stem, jobs)


def refresh_outputs(only: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Run]:
    """Execute notebooks with their defaults and store the outputs in them; one that fails stays as it is.

    Each finds no training done before, neither by a reader nor by another notebook: its outputs are those of a first
    run. The rest of the cache is used.
    """
    notebooks = [find_notebook(name, folder) for name in only] or sorted(folder.glob("*.ipynb"))
    runs = []
    for notebook in notebooks:
        with temporary_folder(TRAININGS_VARIABLE):
            (run,) = run_notebooks({notebook: {}}, folder.parent / "runs" / "outputs")
        if run.error is None:
            nbformat.write(normalised(nbformat.read(run.copy, as_version=4)), run.notebook)
        runs.append(run)
    return runs


def summary(runs: Sequence[Run]) -> str:
    """What ran, how long each took, what failed and how, where the executed copies are."""
    fine = f"{sum(run.error is None for run in runs)} of {len(runs)}"
    lines = [f"{'notebook':28} {'result':8} {'time':>8}", *map(result_line, runs)]
    lines += [f"{'sum':28} {fine:8} {sum(run.seconds for run in runs):8.0f} s"]
    lines += [f"\n{run.notebook.stem}, {run.error}\n  see {run.copy}" for run in runs if run.error]
    lines += [f"\nThe executed copies are in {runs[0].copy.parent}" for run in runs[:1]]
    return "\n".join(lines)


def parse_values(option: str, lines: Sequence[str] | None, fault: str) -> dict[str, Any]:
    """The values of an option that is repeated as `name=value`. Raises InputError with `fault` for one without."""
    values = {}
    for line in lines or ():
        name, equals, value = line.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {line} {fault}; write {option} name=value")
        values[name] = parse_value(value)
    return values
