"""Fixtures that several test files use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


@pytest.fixture(scope="session")
def make_notebook() -> Callable[..., Path]:
    """`make_notebook(path, *sources, parameters="n: int = 1  # what")` writes a small notebook, never executed."""

    def make(path: Path, *sources: str, parameters: str | None = None) -> Path:
        cells = [new_markdown_cell("# A notebook")]
        if parameters is not None:
            cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        cells += [new_code_cell(source) for source in sources]
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return make


@pytest.fixture(scope="session")
def straight(tmp_path_factory) -> Path:
    """The run of `stopping` that nothing ever stopped. Read only."""
    from stopping import quiet_fit  # which loads torch: not all tests need it

    return quiet_fit(tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory) -> Path:
    from stopping import interrupted_at, quiet_fit

    folder = tmp_path_factory.mktemp("stopped")
    with interrupted_at(5):
        quiet_fit(folder)
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A run with two checkpoints: of step 4 (its first epoch), and of step 5, where it was stopped."""
    return shutil.copytree(stopped_once, tmp_path / "run")
