"""nbval, as the Makefile calls it, finds a changed output and lets pass what changes from run to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

from ddpm_lib.batch import refresh_outputs

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = ROOT / "tests" / "notebooks" / "sanitize.cfg"
PATTERNS = get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
SOURCES = (
    "print('shape', (2, 3))",
    "import time; print(f'took {time.perf_counter():.3f} s'); print(object())",
    "print(time.time_ns())  # tagged: not compared",
    "'a result'",
)


def sanitized(text: str) -> str:
    for pattern, replacement in PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 37%|███▋      | 111/300 [00:51<01:27,  2.16step/s, loss=0.05]", "PROGRESS"),
        ("before\n100%|██| 3/3 [00:00<00:00, 9.1it/s]\nafter", "before\nPROGRESS\nafter"),
        ("<object at 0x7f1e5c3b9d60>", "<object at ADDRESS>"),
        ("trained at 159.3 images/s for 12.5 s", "trained at SPEED for TIME"),
        ("1,234 img/s", "SPEED"),
        ('<img alt="A boot." src="data:image/png;base64,iVBO/+Rw0=">', '<img alt="A boot." src="PIXELS">'),
        ("4.5 minutes, 12 ms, 3µs", "TIME, TIME, TIME"),
    ],
)
def test_times_speeds_bars_and_addresses_are_replaced(text: str, expected: str):
    assert sanitized(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "10 steps",
        "torch.Size([2, 1, 28, 28])",
        "3 samples of 28 x 28",
        "loss 0.024",
        "v2.5 shirts",
        "0x1f",
        "T=1000: 5 %",
    ],
)
def test_nothing_that_the_code_decides_is_replaced(text: str):
    assert sanitized(text) == text


@pytest.fixture(scope="module")
def stored(tmp_path_factory, make_notebook) -> Path:
    """A notebook as `make outputs` stores it."""
    folder = tmp_path_factory.mktemp("course") / "notebooks"
    folder.mkdir()
    path = make_notebook(folder / "01_a.ipynb", *SOURCES)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].metadata.tags = ["nbval-ignore-output"]
    nbformat.write(notebook, path)
    (run,) = refresh_outputs(folder=folder)
    assert run.error is None
    return path


def compare(pytester: pytest.Pytester, notebook: Path) -> pytest.RunResult:
    """nbval on one notebook, with the options of `make test`."""
    (command,) = re.findall(r"^\t\$\(BIN\)/pytest (.*)$", MAKEFILE, re.MULTILINE)
    options = shlex.split(command.partition("$(TRAIN)")[0])
    options = [
        str(SANITIZE) if option.endswith(SANITIZE.name) else option.replace("$(WORKERS)", "0") for option in options
    ]
    return pytester.runpytest_subprocess(*options, str(notebook))


def test_unchanged_code_gives_the_stored_outputs(pytester: pytest.Pytester, stored: Path):
    compare(pytester, stored).assert_outcomes(passed=len(SOURCES))


def test_a_changed_result_a_new_warning_and_an_error_are_found(pytester: pytest.Pytester, stored: Path, tmp_path: Path):
    notebook = nbformat.read(stored, as_version=4)
    cells = notebook.cells[1:]
    cells[0].source = "print('shape', (2, 4))"
    cells[1].source = "import time, sys; print('took 1 s'); print(object()); print('careful', file=sys.stderr)"
    cells[2].source = "1 / 0"  # an ignored output still has to come out
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    compare(pytester, tmp_path / "changed.ipynb").assert_outcomes(passed=1, failed=3)
