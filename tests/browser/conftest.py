"""A browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import chromium, find_chromium
from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # not longer: its event loop runs as long as it lives, and other tests need their own
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium or Chrome is installed; Debian: apt-get install chromium")
    with chromium() as browser:
        yield browser
