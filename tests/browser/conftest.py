"""A browser for the tests of a file, and a JupyterLab for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import jupyterlab
from playwright.sync_api import Browser

from ddpm_lib.browser import chromium, find_chromium


@pytest.fixture(scope="module")  # not longer: its event loop runs as long as it lives, and other tests need their own
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium or Chrome is installed; Debian: apt-get install chromium")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")  # not longer: the server mixes up files that Notebook 7 and JupyterLab both have
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a running JupyterLab, and the address of a notebook in it but for its name."""
    folder = tmp_path_factory.mktemp("notebooks")
    with jupyterlab(folder) as address:
        yield folder, address
