from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ddpm_lib.cli import app
from ddpm_lib.errors import InputError, SweepError
from ddpm_lib.results import record, recorded
from ddpm_lib.sweeps.cluster import worker_count
from ddpm_lib.sweeps.plots import draw_result
from ddpm_lib.sweeps.report import results_table
from ddpm_lib.sweeps.runner import estimate_seconds, missing, run_sweep
from ddpm_lib.sweeps.spec import Limits, Sweep, load_sweep
from ddpm_lib.sweeps.summary import store_summary, summary_notebook, write_report
from ddpm_lib.sweeps.worker import copy_path, outcome_path, perform, read_outcome

PARAMETERS = 'mode: str = "fine"  # what happens\nw: float = 0.5  # a number'
MODES = """\
import pathlib, time
from ddpm_lib.results import record
pathlib.Path("starts.txt").open("a").write(f"{mode}\\n")
if mode == "fails" and pathlib.Path("broken").exists():
    1 / 0
if mode == "hangs":
    time.sleep(600)
if mode == "eats":
    held = bytearray(10**9)
    time.sleep(600)
record(w=1) if mode == "clashes" else record(twice=2 * w, diverged=float("nan"), word=mode)
"""
SWEEP = """\
notebook: work.ipynb
about: What may happen.
grid: {mode: [fine, fails, hangs, eats, clashes]}
limits: {minutes: 0.5, memory_gb: 0.5}
"""


def ddpm(*arguments: object):
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_notebook) -> Path:
    """A sweep, done once by two workers: `folder`/out."""
    folder = tmp_path_factory.mktemp("sweep")
    make_notebook(folder / "work.ipynb", "x = 1", MODES, parameters=PARAMETERS)
    (folder / "mine.yaml").write_text(SWEEP)
    (folder / "broken").touch()
    assert run_sweep(load_sweep(folder / "mine.yaml"), folder / "out", workers=2, dashboard=False) == {}
    return folder


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Sweep:
    return load_sweep(folder / "mine.yaml")


def test_what_a_run_records_is_kept_with_its_parameters(sweep: Sweep, folder: Path):
    fine = read_outcome(folder / "out", sweep.runs[0].key)
    assert fine.error is None
    assert fine.parameters == {"mode": "fine", "w": 0.5}
    assert fine.results["twice"] == 1.0
    assert fine.results["diverged"] != fine.results["diverged"]  # NaN
    assert fine.results["word"] == "fine"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (1, "cell [4] `import pathlib, time`: ZeroDivisionError: division by zero"),
        (2, "it took longer than its limit of 0.5 minutes; cell [4] `import pathlib, time`: KeyboardInterrupt: "),
        (3, "it used more than its limit of 0.5 GB of memory; cell `import pathlib, time`: the kernel died"),
        (4, "it records w, which is the name of a parameter"),
    ],
    ids=["fails", "hangs", "eats", "clashes"],
)
def test_a_run_that_goes_wrong_is_kept_with_cell_and_error(sweep: Sweep, folder: Path, place: int, error: str):
    assert read_outcome(folder / "out", sweep.runs[place].key).error.startswith(error)


def test_the_table_has_a_row_a_run_and_nothing_of_others(sweep: Sweep, folder: Path):
    stranger = dict(json.loads(outcome_path(folder / "out", sweep.runs[0].key).read_text()), key="0" * 16)
    outcome_path(folder / "out", "0" * 16).write_text(json.dumps(stranger))
    table = results_table(sweep, folder / "out")
    assert table["mode"].tolist() == ["fine", "fails", "hangs", "eats", "clashes"]
    assert table.status.tolist() == ["ok", "failed", "failed", "failed", "failed"]
    assert table.twice.tolist()[0] == 1.0
    assert table.twice.isna().sum() == 4


def test_status_counts_and_lists_the_failures_with_their_copies(sweep: Sweep, folder: Path):
    result = ddpm("status", folder / "mine.yaml", "--out", folder / "out")
    assert result.exit_code == 0
    assert "mine: 5 runs: 1 done, 4 failed, 0 missing" in result.stdout
    assert "failed: mode=fails\n  cell [4] `import pathlib, time`: ZeroDivisionError" in result.stdout
    assert str(copy_path(folder / "out", sweep.runs[1])) in result.stdout


def test_a_dry_run_says_what_is_missing_and_how_long_and_runs_nothing(folder: Path):
    before = (folder / "starts.txt").read_text()
    result = ddpm(folder / "mine.yaml", "--out", folder / "out", "--dry-run", "--workers", 2)
    assert result.exit_code == 0
    assert [line.strip() for line in result.stdout.splitlines()[:4]] == [f"mode={m}" for m in sorted_modes(folder)]
    assert "4 of 5 runs would be done, 2 at a time: about 0." in result.stdout
    assert ddpm(folder / "mine.yaml", "--out", folder / "other", "--dry-run", "--limit", 2).stdout.count("mode=") == 2
    only = ddpm(folder / "mine.yaml", "--out", folder / "other", "--dry-run", "--only", "mode=eats")
    assert "1 of 5 runs would be done, 1 at a time: no earlier run" in only.stdout
    assert (folder / "starts.txt").read_text() == before
    assert not (folder / "other").exists()


def sorted_modes(folder: Path) -> list[str]:
    return [run.parameters["mode"] for run in load_sweep(folder / "mine.yaml").runs][1:]


def test_done_is_never_done_again_failed_is_tried_again_and_changed_code_is_another_run(sweep: Sweep, folder: Path):
    """As a worker does it, in this process."""
    fine, fails = sweep.runs[:2]
    starts = (folder / "starts.txt").read_text()
    assert perform(fine, folder / "out", Limits()) == read_outcome(folder / "out", fine.key)
    assert (folder / "starts.txt").read_text() == starts
    (folder / "broken").unlink()
    assert perform(fails, folder / "out", Limits()).results["word"] == "fails"
    assert missing(folder / "out", sweep.runs[:2]) == []

    notebook = nbformat.read(fine.notebook, as_version=4)
    notebook.cells[-1].source += "\nrecord(more=1)"
    nbformat.write(notebook, fine.notebook)
    with pytest.raises(SweepError, match="is not what the sweep was started with"):
        perform(sweep.runs[2], folder / "out", Limits())
    again = load_sweep(folder / "mine.yaml").runs
    assert len(missing(folder / "out", again)) == 5
    assert copy_path(folder / "out", again[0]) != copy_path(folder / "out", fine)


def test_no_run_waits_behind_a_long_one_while_another_worker_is_free(tmp_path: Path, make_notebook):
    wait = """\
import pathlib, time
end = time.monotonic() + 120
while number == 0 and len(list(pathlib.Path("out/outcomes").glob("*.json"))) < 6:
    assert time.monotonic() < end, "the others wait for this run"
    time.sleep(0.1)
"""
    make_notebook(tmp_path / "work.ipynb", wait, parameters="number: int = 0  # the first one is long")
    (tmp_path / "mine.yaml").write_text(
        "notebook: work.ipynb\nabout: Who waits.\ngrid: {number: [0, 1, 2, 3, 4, 5, 6]}\n"
    )
    sweep = load_sweep(tmp_path / "mine.yaml")
    assert run_sweep(sweep, tmp_path / "out", workers=2, dashboard=False) == {}
    assert missing(tmp_path / "out", sweep.runs) == []


def test_a_damaged_outcome_is_refused_and_named(sweep: Sweep, tmp_path: Path):
    path = outcome_path(tmp_path, sweep.runs[0].key)
    path.parent.mkdir()
    path.write_text('{"key": ')
    with pytest.raises(SweepError, match=f"{path.name} cannot be read .*delete it"):
        read_outcome(tmp_path, sweep.runs[0].key)


def test_time_is_estimated_from_the_runs_that_are_done(tmp_path: Path):
    assert estimate_seconds(tmp_path, 10, 2) is None
    (tmp_path / "outcomes").mkdir()
    values = {"name": "", "parameters": {}, "results": {}, "host": "", "processor": "", "python": ""}
    for key, seconds, error in (("a", 2.0, None), ("b", 4.0, None), ("c", 99.0, "failed"), ("d", 3.0, None)):
        text = json.dumps(values | {"key": key, "seconds": seconds, "error": error})
        (tmp_path / "outcomes" / f"{key}.json").write_text(text)
    assert estimate_seconds(tmp_path, 10, 2) == 15.0
    assert estimate_seconds(tmp_path, 3, 2) == 6.0


def test_there_are_never_more_workers_than_memory_or_cores_allow():
    assert worker_count(1e6) == 1
    assert worker_count(1e-6) >= worker_count() >= 1


def test_a_scheduler_that_does_not_answer_is_refused(sweep: Sweep, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("ddpm_lib.sweeps.cluster.CONNECT_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_sweep(sweep, tmp_path, scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "mode=none"], "no run has mode=none"),
        (["--only", "mode"], "write --only name=value"),
        (["--only", "mood=fine"], "did you mean mode"),
        (["--scheduler", "tcp://x:1", "--workers", "2"], "--workers is for a cluster started here"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_options_are_refused_and_nothing_runs(folder: Path, options: list[str], message: str):
    result = ddpm(folder / "mine.yaml", "--out", folder / "never", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "never").exists()


# --- results


def test_results_are_read_from_the_copy_and_the_newest_counts(monkeypatch):
    outputs = []
    monkeypatch.setattr(
        "ddpm_lib.results.display",
        lambda data, raw: outputs.append(nbformat.v4.new_output("display_data", data)),
    )
    record(fid=torch.tensor(1.5), n=3, ok=True, nothing=None)
    record(fid=2.5, worst=float("inf"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    read = recorded(nbformat.reads(nbformat.writes(notebook), as_version=4))
    assert read == {"fid": 2.5, "n": 3, "ok": True, "nothing": None, "worst": float("inf")}
    assert outputs[0]["data"]["text/plain"].splitlines()[0] == "fid = 1.5"


@pytest.mark.parametrize("value", [[1.0], torch.zeros(2), {"a": 1}, print])
def test_what_is_not_one_value_is_not_recorded(value: object):
    with pytest.raises(InputError, match=r"x is a .*record takes single numbers"):
        record(x=value)


# --- plots


def table_of(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_the_number_with_most_values_is_the_axis_and_the_other_parameter_tells_lines_apart():
    table = table_of(w=[0.0, 1.0, 2.0] * 2, sampler=["ddim"] * 3 + ["ddpm"] * 3, fid=[3, 2, 1, 6, 5, 4])
    (ax,) = draw_result(table, "fid", ["sampler", "w"]).axes
    assert ax.get_xlabel() == "w"
    assert ax.get_ylabel() == "fid"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sampler = ddim", "sampler = ddpm"]
    assert ax.containers[1].lines[0].get_ydata().tolist() == [6, 5, 4]


def test_seeds_become_error_bars():
    table = table_of(w=[0.0, 0.0, 1.0, 1.0], seed=[0, 1, 0, 1], fid=[1.0, 3.0, 5.0, 5.0])
    (ax,) = draw_result(table, "fid", ["w", "seed"]).axes
    (container,) = ax.containers
    assert container.lines[0].get_ydata().tolist() == [2.0, 5.0]
    assert container.has_yerr


def test_a_recorded_interval_becomes_bars_where_nothing_is_averaged():
    table = table_of(w=[0.0, 1.0], fid=[2.0, 4.0], fid_low=[1.5, 4.5], fid_high=[3.0, 5.0])
    (ax,) = draw_result(table, "fid", ["w"]).axes
    (bars,) = ax.containers[0].lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[1.5, 3.0], [4.0, 5.0]]  # none goes the wrong way
    (ax,) = draw_result(table.assign(w=1.0), "fid", ["w"]).axes
    assert ax.containers[0].lines[0].get_ydata().tolist() == [3.0]


def test_a_third_parameter_gets_panels_names_get_ticks_and_wide_ranges_a_logarithm():
    rows = [(lr, name, steps) for lr in (1e-4, 1e-3, 1e-2) for name in "ab" for steps in (5, 10)]
    table = pd.DataFrame(rows, columns=["lr", "name", "steps"]).assign(fid=1.0)
    figure = draw_result(table, "fid", ["lr", "name", "steps"])
    assert [ax.get_title() for ax in figure.axes] == ["name = a", "name = b"]
    assert figure.axes[0].get_xscale() == "log"
    (ax,) = draw_result(table, "fid", ["name"]).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b"]


def test_a_parameter_that_another_one_decides_is_not_drawn_over():
    rows = [(w, name, steps, seed) for w in (0.0, 1.0, 2.0) for name, steps in (("a", 5), ("b", 10)) for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["w", "name", "steps", "seed"]).assign(fid=1.0)
    (ax,) = draw_result(table, "fid", ["w", "name", "steps", "seed"]).axes
    assert ax.get_xlabel() == "w"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["name = a", "name = b"]


def test_lists_and_none_are_values_like_others():
    (ax,) = draw_result(table_of(w=[[0, 1], [0, 2], None], fid=[1.0, 2.0, 3.0]), "fid", ["w"]).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["None", "[0, 1]", "[0, 2]"]


def test_many_draws_get_a_panel_for_each_parameter():
    table = table_of(a=list(range(1, 11)), b=[0.1 * i for i in range(10)], fid=list(range(10)))
    figure = draw_result(table, "fid", ["a", "b"])
    assert sorted(ax.get_xlabel() for ax in figure.axes) == ["a", "b"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="no run has a result 'fid'"):
        draw_result(table_of(w=[1.0]), "fid", ["w"])


def test_the_summary_tells_counts_results_failures_and_links_the_copies(sweep: Sweep, folder: Path):
    *_, path = write_report(sweep, folder / "out")
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert text.startswith("# Sweep mine\n\nWhat may happen.")
    assert "Swept: `mode`" in text
    assert 'draw_result(done, "twice", swept)' in text
    assert 'draw_result(done, "word"' not in text
    assert 'draw_result(done, "diverged"' not in text  # NaN in every run
    assert f"[mode=fine](<{sweep.runs[0].name}.ipynb>)" in text
    assert "## Not done" in text
    assert f"By code of hash `{sweep.code[:16]}`" in text


def test_an_interval_is_drawn_with_its_result_and_not_by_itself(sweep: Sweep, tmp_path: Path):
    outcome_path(tmp_path, "").parent.mkdir()
    for run in sweep.runs[:2]:
        results = {"fid": 1.0, "fid_low": 0.5, "fid_high": 1.5, "loss_low": 0.1}
        values = {"key": run.key, "name": run.name, "parameters": run.parameters, "results": results, "error": None}
        values |= {"seconds": 60.0, "host": "here", "processor": "a processor", "python": "3.11"}
        outcome_path(tmp_path, run.key).write_text(json.dumps(values))
    notebook = summary_notebook(sweep, tmp_path, results_table(sweep, tmp_path), 'read_csv("x.csv")')
    headings = [cell.source for cell in notebook.cells if cell.source.startswith("## ")]
    assert headings[:3] == ["## fid", "## loss_low", "## Not done"]
    assert "on a processor with Python 3.11.\nThe runs took 60 to 60 s each, 2.0 minutes together." in headings[3]


def test_only_a_finished_sweep_is_stored(sweep: Sweep, tmp_path: Path):
    with pytest.raises(InputError, match="5 of the 5 runs of mine are not done, and the summary is stored when all"):
        store_summary(sweep, tmp_path, tmp_path / "mine.yaml")
    assert not list(tmp_path.iterdir())
