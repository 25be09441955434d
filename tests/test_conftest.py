"""The rules of the conftest.py at the top, tried on small test suites."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

pytest_plugins = ["pytester"]

PASSES = "def test_fine(): pass\n"
SKIPS = "import pytest\ndef test_x(): pytest.skip('no time')\n"
NOT_RUN = {
    "test_skip": SKIPS,
    "test_skip_mark": "import pytest\n@pytest.mark.skip(reason='no time')\ndef test_x(): pass\n",
    "test_skipif_mark": "import pytest\n@pytest.mark.skipif(True, reason='no time')\ndef test_x(): pass\n",
    "test_no_parameters": "import pytest\n@pytest.mark.parametrize('no_time', [])\ndef test_x(no_time): pass\n",
    "test_skipped_module": "import pytest\npytest.skip('no time', allow_module_level=True)\n",
    "test_expected_failure": "import pytest\n@pytest.mark.xfail(reason='no time')\ndef test_x(): assert 0\n",
    "test_unexpected_pass": "import pytest\n@pytest.mark.xfail(reason='no time')\ndef test_x(): pass\n",
}
QUICK = ("-p", "no:nbval")  # the plugin takes a second to start


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).resolve().parents[1] / "conftest.py").read_text())
    return pytester


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_in_ci_what_did_not_run_has_failed_and_is_named(suite, monkeypatch, workers: list[str]):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(test_fine=PASSES, **NOT_RUN)
    result = suite.runpytest_subprocess(*QUICK, "--continue-on-collection-errors", *workers)
    result.assert_outcomes(passed=1, failed=3, errors=4)  # a mark acts in the setup, where a failure is an "error"
    for name in NOT_RUN:
        result.stdout.re_match_lines([rf".*{name}\.py.* did not really run, and in CI every test must .*no.time"])


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_elsewhere_a_skip_is_a_skip(suite, monkeypatch, value: str):
    monkeypatch.setenv("CI", value)
    suite.makepyfile(test_some=PASSES + SKIPS)
    suite.runpytest_subprocess(*QUICK).assert_outcomes(passed=1, skipped=1)


def test_in_ci_a_suite_that_runs_passes(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(test_some=PASSES)
    suite.runpytest_subprocess(*QUICK).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("workers", "given", "expected"),
    [
        (["-n2"], None, str(max(1, len(os.sched_getaffinity(0)) // 2))),
        (["-n2"], "7", "7"),  # the user's choice stands
        ([], None, "None"),  # alone, a test may use every core
    ],
)
def test_workers_share_the_cores(suite, monkeypatch, workers: list[str], given: str | None, expected: str):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    suite.makepyfile(f"import os\ndef test_x(): assert str(os.environ.get('OMP_NUM_THREADS')) == {expected!r}")
    suite.runpytest_subprocess(*QUICK, *workers).assert_outcomes(passed=1)


LATE = """import time
kernel = get_ipython().kernel
publish = kernel._publish_status

def late(status, *where, **more):  # says seven seconds after its reply that it is idle again
    time.sleep(7 if status == "idle" else 0)
    publish(status, *where, **more)

kernel._publish_status = late"""


def test_a_cell_whose_outputs_come_late_passes(suite):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LATE)]), suite.path / "late.ipynb")
    suite.runpytest_subprocess("--nbval-lax", "--nbval-current-env", "late.ipynb").assert_outcomes(passed=1)
