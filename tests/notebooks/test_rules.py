"""Each rule of rules.py finds its fault, and none finds fault with a good notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import rules
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddpm_lib.errors import NotebookError
from ddpm_lib.stored import WIDGET_VIEW, normalised

PICTURE = {"image/png": "/tmp/aGk=", "text/plain": "<IPython.core.display.Image object>"}


@pytest.fixture
def good() -> NotebookNode:
    printed = new_output("stream", name="stdout", text="loss below 0.2: True\n")
    picture = new_output("display_data", data=PICTURE, metadata={"image/png": {"alt": "A curve that falls."}})
    words = "Noise is added step by step. " * 300
    cells = [
        new_markdown_cell(f"# 01 · Noise\n\n{words}\n\n![A chain](chain.png)"),
        new_code_cell("T: int = 10  # steps\nseed: int = 0  # of all", metadata={"tags": ["parameters"]}),
        new_code_cell("print('loss below 0.2:', True)", outputs=[printed]),
        new_code_cell("show(figure, alt='A curve that falls.')", outputs=[picture]),
        new_code_cell("fit(T)  # the progress bar is not compared", metadata={"tags": ["nbval-ignore-output"]}),
    ]
    for count, cell in enumerate(cells[1:], start=1):
        cell.execution_count = count
    return normalised(new_notebook(cells=cells))


def test_no_rule_finds_fault_with_a_good_notebook(good: NotebookNode):
    assert {rule.__name__: rule(good) for rule in rules.RULES} == {rule.__name__: [] for rule in rules.RULES}


def test_no_rule_changes_the_notebook(good: NotebookNode):
    before = deepcopy(good)
    for rule in rules.RULES:
        rule(good)
    assert good == before


def same_ids(notebook: NotebookNode) -> None:
    notebook.cells[1].id = notebook.cells[2].id


def old_format(notebook: NotebookNode) -> None:
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


def no_title(notebook: NotebookNode) -> None:
    notebook.cells[0].source = notebook.cells[0].source.removeprefix("# ")


def two_titles(notebook: NotebookNode) -> None:
    notebook.cells.append(new_markdown_cell("# 02 · More"))


def no_parameters(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata = {}


def parameters_twice(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata.tags = ["parameters"]


def source(index: int, text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].source = text

    return plant


def output(index: int, kind: str, **content) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].outputs = [new_output(kind, **content)]

    return plant


def tag(index: int, *names: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].metadata.tags = list(names)

    return plant


def metadata(index: int, **content) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].metadata.update(content)

    return plant


def never_run(notebook: NotebookNode) -> None:
    notebook.cells[2].execution_count = None


def out_of_order(notebook: NotebookNode) -> None:
    notebook.cells[2].execution_count, notebook.cells[3].execution_count = 3, 2


def outputs_stripped(notebook: NotebookNode) -> None:
    for cell in notebook.cells[1:]:
        cell.outputs = []


def most_ignored(notebook: NotebookNode) -> None:
    for cell in notebook.cells[3:]:
        cell.source += "  # not compared"
        cell.metadata.tags = ["nbval-ignore-output"]


def saved_by_jupyterlab(notebook: NotebookNode) -> None:
    notebook.metadata.language_info["version"] = "3.11.7"


FAULTS = [
    (rules.valid_notebook, same_ids),
    (rules.valid_notebook, old_format),
    (rules.valid_notebook, lambda notebook: notebook.cells[2].pop("outputs")),
    (rules.title_first, no_title),
    (rules.title_first, two_titles),
    (rules.one_parameters_cell, no_parameters),
    (rules.one_parameters_cell, parameters_twice),
    (rules.one_parameters_cell, source(1, "T = 10  # steps")),
    (rules.one_parameters_cell, source(1, "T: int = 10")),
    (rules.one_parameters_cell, source(1, "T: int = 10  # steps\nprint(T)")),
    (rules.one_parameters_cell, source(1, "T: int = 10  # ")),
    (rules.executed_in_order, never_run),
    (rules.executed_in_order, out_of_order),
    (rules.executed_in_order, outputs_stripped),
    (rules.no_error_and_no_stderr, output(2, "stream", name="stderr", text="warning")),
    (rules.no_error_and_no_stderr, output(2, "error", ename="ValueError", evalue="wrong", traceback=[])),
    (rules.few_outputs_ignored, source(4, "fit(T)")),
    (rules.few_outputs_ignored, source(4, "fit(T)  # trains")),
    (rules.few_outputs_ignored, most_ignored),
    (rules.every_cell_runs_when_compared, tag(2, "nbval-skip")),
    (rules.every_cell_runs_when_compared, tag(2, "raises-exception")),
    (rules.every_cell_runs_when_compared, source(2, "# NBVAL_IGNORE_OUTPUT\nprint(1)")),
    (rules.short_cells, source(2, "x = 1\n" * 26)),
    (rules.short_cells, source(2, "  \n")),
    (rules.images_have_alt_text, source(0, "# T\n![](chain.png)")),
    (rules.images_have_alt_text, source(0, "# T\n<img src='chain.png' alt=''>")),
    (rules.images_have_alt_text, output(3, "display_data", data=PICTURE)),
    (rules.images_have_alt_text, output(3, "display_data", data={"text/html": "<figure><img src='x.png'></figure>"})),
    (rules.enough_prose_and_not_too_much, source(0, "# T\n" + "word " * 1400)),
    (rules.enough_prose_and_not_too_much, source(0, "# T\n" + "word " * 3600)),
    (rules.enough_prose_and_not_too_much, source(0, "# T\n```\n" + "word " * 2000 + "\n```\n")),
    (rules.nothing_of_one_machine, source(2, "load('/home/ann/data')")),
    (rules.nothing_of_one_machine, source(2, "load(r'C:\\data')")),
    (rules.nothing_of_one_machine, output(2, "stream", name="stdout", text="saved to /tmp/x/y.png")),
    (rules.nothing_of_one_machine, output(2, "execute_result", data={"text/plain": "PosixPath('/root/x')"})),
    (rules.nothing_of_one_machine, source(0, "# T\n`pip install torch --index-url https://wheels.example`")),
    (rules.as_make_outputs_stores_it, saved_by_jupyterlab),
    (rules.as_make_outputs_stores_it, metadata(2, papermill={"duration": 3})),
    (rules.as_make_outputs_stores_it, metadata(2, execution={"iopub.execute_input": "2024"})),
    (rules.as_make_outputs_stores_it, output(3, "display_data", data={WIDGET_VIEW: {}, "text/plain": "a slider"})),
    (rules.as_make_outputs_stores_it, output(4, "stream", name="stderr", text="50%|█████     | 1/2")),
]


@pytest.mark.parametrize(("rule", "plant"), FAULTS, ids=[f"{rule.__name__}-{n}" for n, (rule, _) in enumerate(FAULTS)])
def test_a_planted_fault_is_found(good: NotebookNode, rule: rules.Rule, plant: Callable[[NotebookNode], None]):
    notebook = nbformat.from_dict(json.loads(json.dumps(good)))
    plant(notebook)
    assert rule(notebook)


def test_every_rule_has_a_fault_that_it_finds():
    assert {rule for rule, _ in FAULTS} == set(rules.RULES)


def test_a_reason_in_the_metadata_will_do(good: NotebookNode):
    good.cells[4].source = "fit(T)"
    good.cells[4].metadata.reason = "progress bar"
    assert rules.few_outputs_ignored(good) == []


def test_formulas_code_and_addresses_are_no_words():
    text = "Two words\n$$a + b$$ $x_t$\n```python\nx = one_more\n```\n[link](https://a.org/b c) 1 2 3 – <b>bold</b>"
    assert rules.count_words(text) == 4  # Two, words, [link, bold


@pytest.mark.parametrize("line", ["x: int | None = 3  # images", "x: int = 3  # x = 4 is better"])
def test_a_parameter_that_papermill_overlooks_is_found(tmp_path: Path, make_notebook, line: str):
    path = make_notebook(tmp_path / "a.ipynb", parameters=f"T: int = 10  # steps\n{line}")
    assert rules.unseen_parameters(path) == {"x"}


def test_defaults_are_values_of_their_declared_type(tmp_path: Path, make_notebook):
    good = make_notebook(
        tmp_path / "a.ipynb", parameters="T: int = 1_000  # steps\nws: list[float] = [0.0, 1]  # weights"
    )
    assert rules.defaults(good) == {"T": 1000, "ws": [0.0, 1]}
    bad = make_notebook(tmp_path / "b.ipynb", parameters="T: int = 0.5  # steps")
    with pytest.raises(NotebookError, match=r"T is 0\.5"):
        rules.defaults(bad)
