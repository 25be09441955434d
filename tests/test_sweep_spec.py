from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddpm_lib.batch import NOTEBOOKS
from ddpm_lib.errors import NotebookError
from ddpm_lib.identity import code_hash, run_key
from ddpm_lib.sweeps.spec import Limits, chosen_runs, load_sweep

PARAMETERS = """\
n: int = 2  # how many
lr: float = 1e-3  # learning rate
sampler: str = "ddim"  # which
seed: int = 0  # of all
"""
READY = sorted((NOTEBOOKS / "sweeps").glob("*.yaml"))


@pytest.fixture
def sweep_of(tmp_path: Path, make_notebook):
    """`sweep_of(text)` reads a sweep of a small notebook, work.ipynb."""
    make_notebook(tmp_path / "work.ipynb", "print(n)", parameters=PARAMETERS)

    def load(text: str, name: str = "mine.yaml"):
        path = tmp_path / name
        path.write_text(f"notebook: work.ipynb\n{text}")
        return load_sweep(path)

    return load


def given(sweep) -> list[dict]:
    return [run.given for run in sweep.runs]


def test_a_grid_is_every_value_with_every_other(sweep_of):
    sweep = sweep_of("fixed: {seed: 3}\ngrid:\n  n: [1, 2]\n  sampler: [ddim, ddpm]\n")
    pairs = [(1, "ddim"), (1, "ddpm"), (2, "ddim"), (2, "ddpm")]
    assert given(sweep) == [{"seed": 3, "n": n, "sampler": sampler} for n, sampler in pairs]
    assert sweep.runs[0].parameters == {"n": 1, "lr": 1e-3, "sampler": "ddim", "seed": 3}
    assert sweep.swept == ["n", "sampler"]
    assert [run.label for run in sweep.runs][:2] == ["n=1,sampler=ddim", "n=1,sampler=ddpm"]


def test_a_list_is_its_runs_and_is_combined_with_the_grid(sweep_of):
    assert given(sweep_of("list:\n- {n: 1, lr: 1}\n- {n: 4}\n")) == [{"n": 1, "lr": 1.0}, {"n": 4}]
    combined = given(sweep_of("grid: {seed: [0, 1]}\nlist:\n- {n: 1}\n- {n: 4}\n"))
    assert combined == [{"seed": seed, "n": n} for seed in (0, 1) for n in (1, 4)]


RANDOM = """\
random:
  draws: {draws}
  seed: {seed}
  from:
    lr: {{log_uniform: [1e-4, 1e-2]}}
    n: {{integers: [1, 1000]}}
    sampler: {{choice: [ddim, ddpm]}}
"""


def test_draws_lie_in_their_ranges_and_more_draws_leave_the_first_as_they_are(sweep_of):
    few, many = (given(sweep_of(RANDOM.format(draws=draws, seed=0))) for draws in (5, 40))
    assert many[:5] == few
    assert len(many) == 40
    assert all(1e-4 <= run["lr"] <= 1e-2 and 1 <= run["n"] <= 1000 for run in many)
    assert 10 < sum(run["lr"] < 1e-3 for run in many) < 30  # half of them: uniform in the logarithm
    assert {run["sampler"] for run in many} == {"ddim", "ddpm"}
    assert given(sweep_of(RANDOM.format(draws=5, seed=1))) != few


def test_draws_that_fall_together_are_one_run(sweep_of):
    assert len(sweep_of("random: {draws: 9, from: {n: {choice: [1, 2]}}}").runs) == 2


def test_names_are_readable_and_never_shared(sweep_of):
    sweep = sweep_of('grid: {lr: [0.001, 1e-5], sampler: ["a/b c", "x"]}')
    names = [run.name for run in sweep.runs]
    assert names[0].startswith("lr=0.001,sampler=a-b-c.")
    assert len(set(names)) == 4
    long = sweep_of(f"grid: {{sampler: [{'a' * 300}1, {'a' * 300}2]}}")
    assert len({run.name for run in long.runs}) == 2
    assert max(len(run.name) for run in long.runs) < 120


def test_limits_are_read(sweep_of):
    assert sweep_of("limits: {minutes: 5, memory_gb: 1.5}").limits == Limits(5, 1.5)
    assert sweep_of("").limits == Limits()
    assert [run.label for run in sweep_of("").runs] == ["work"]


def test_only_chooses_runs_by_value(sweep_of):
    sweep = sweep_of("grid: {n: [1, 2], lr: [1, 2]}")
    assert [run.label for run in chosen_runs(sweep, {"lr": 2, "n": 1})] == ["n=1,lr=2"]
    with pytest.raises(NotebookError, match=r"no run has lr=3; there are 1\.0, 2\.0"):
        chosen_runs(sweep, {"lr": 3})
    with pytest.raises(NotebookError, match="no parameter 'l'"):
        chosen_runs(sweep, {"l": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {n: [1", "not valid YAML"),
        ("grid: {n: [1], n: [2]}", "'n' stands twice"),
        ("gird: {n: [1]}", "entry 'gird'; did you mean grid"),
        ("grid: {m: [1, 2]}", "no parameter 'm'"),
        ("grid: {smapler: [a]}", "did you mean sampler"),
        ("grid: {n: [1, two]}", "n is 'two', a str; it must be of type int"),
        ("grid: {n: [1, 2.5]}", r"n is 2\.5, a float"),
        ("grid: {n: 3}", "n in grid is 3; it must be a list"),
        ("grid: {n: []}", "must be a list"),
        ("grid: [1]", "grid is .*must hold `name: value`"),
        ("list: {n: 1}", "list must hold runs"),
        ("list: [1]", "list must hold runs"),
        ("grid: {n: [1, 2, 1]}", "the run n=1 stands twice"),
        ("grid: {lr: [1, 1.0]}", "the run lr=1 stands twice"),
        ("list: [{n: 2}, {lr: 0.001}]", "stands twice"),  # both are the defaults
        ("grid: {n: [1, 2]}\nfixed: {n: 3}", "n is set in two places"),
        ("grid: {n: [1, 2]}\nlist: [{lr: 1}, {n: 3}]", "n is set in two places"),
        ("random: {draws: 3}", "random needs draws"),
        ("random: {draws: 0, from: {n: {integers: [1, 2]}}}", "random needs draws"),
        ("random: {draw: 3, from: {n: {integers: [1, 2]}}}", "'draw' in random; did you mean draws"),
        ("random: {draws: 3, from: {n: {integer: [1, 2]}}}", "n is drawn from"),
        ("random: {draws: 3, from: {lr: {log_uniform: [0, 2]}}}", "lr is drawn from"),
        ("random: {draws: 3, from: {lr: {uniform: [2, 1]}}}", "lr is drawn from"),
        ("random: {draws: 3, from: {sampler: {choice: []}}}", "sampler is drawn from"),
        ("random: {draws: 3, from: {sampler: {choice: ab}}}", "sampler is drawn from"),
        ("limits: {minute: 3}", "'minute' in limits; did you mean minutes"),
        ("limits: {minutes: 0}", "must be a number above 0"),
        ("limits: {memory_gb: much}", "must be a number above 0"),
    ],
)
def test_a_wrong_sweep_is_refused_with_what_is_wrong(sweep_of, text: str, message: str):
    with pytest.raises(NotebookError, match=message):
        sweep_of(text)


def test_a_sweep_without_its_notebook_is_refused(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    for text, message in (
        ("grid: {n: [1]}", "names its notebook"),
        ("notebook: 05", "in quotes"),
        ("notebook: none.ipynb", "which is not there"),
        ('notebook: "99"', "there is no notebook '99'"),
    ):
        path.write_text(text)
        with pytest.raises(NotebookError, match=message):
            load_sweep(path)
    with pytest.raises(NotebookError, match="cannot read the sweep"):
        load_sweep(tmp_path / "nowhere.yaml")


def test_a_profile_gives_values_that_the_sweep_may_change(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text('notebook: "01"\nprofile: smoke\nfixed: {toy_samples: 7}\ngrid: {seed: [1, 2]}')
    assert load_sweep(path).runs[1].given == {"chains": 100, "known_images": 1000, "toy_samples": 7, "seed": 2}


# --- identity


@pytest.fixture
def coded(tmp_path: Path, make_notebook) -> Path:
    (tmp_path / "helper.py").write_text("import deeper\n\n\ndef f():\n    return 1\n")
    (tmp_path / "deeper.py").write_text("x = 1\n")
    source = "%matplotlib inline\nimport helper\nfrom ddpm_lib.results import record"
    return make_notebook(tmp_path / "work.ipynb", source, "print(1)", parameters="n: int = 1  # how many")


def test_equal_content_is_one_run_wherever_it_lies(coded: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in [*tmp_path.glob("*.py"), coded]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert code_hash(coded) == code_hash(elsewhere / coded.name)


@pytest.mark.parametrize(
    ("name", "old", "new", "same"),
    [
        ("helper.py", "return 1", "return 2", False),
        ("deeper.py", "x = 1", "x = 2", False),
        ("deeper.py", "x = 1", "x = 1  # why", True),
        ("work.ipynb", "print(1)", "print(2)", False),
        ("work.ipynb", "# A notebook", "# Another title", True),
        ("work.ipynb", "# how many", "# how much", False),
    ],
)
def test_code_counts_and_prose_does_not(coded: Path, name: str, old: str, new: str, same: bool):
    before = code_hash(coded)
    path = coded.parent / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert (code_hash(coded) == before) is same


def test_parameters_count_with_their_types():
    keys = {run_key("code", {"a": value}) for value in (1, 1.0, True, "1", None, [1])}
    assert len(keys) == 6
    assert run_key("code", {"a": 1, "b": 2}) == run_key("code", {"b": 2, "a": 1}) != run_key("other", {"a": 1, "b": 2})


def test_a_library_module_counts_with_all_it_imports_and_with_shipped_weights(tmp_path: Path, make_notebook):
    from ddpm_lib.identity import LIBRARY, imported_files

    files = imported_files(["from ddpm_lib import pretrained"], [LIBRARY])
    names = {str(path.relative_to(LIBRARY / "ddpm_lib")) for path in files}
    assert {"__init__.py", "unet.py", "files.py", "pretrained/cfg_ema_epoch_20.safetensors"} <= names
    assert names.isdisjoint({"sweeps/runner.py", "cli.py", "pretrained/README.md"})


# --- the ready sweeps


def test_there_are_ready_sweeps():
    assert len(READY) >= 6


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_sweep_is_valid_and_says_what_it_is_about(path: Path):
    sweep = load_sweep(path)
    assert len(sweep.runs) > 1
    assert sweep.about
    json.dumps([run.parameters for run in sweep.runs])
