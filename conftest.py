"""What holds for every pytest run here, of tests as of notebooks."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

from ddpm_lib.machine import usable_cores

OUTPUT_SECONDS = 120
STRICT = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_configure(config: pytest.Config) -> None:
    """What is started from here inherits it: the share of cores of workers side by side, and an ear for Ctrl-C."""
    if workers := len(config.getoption("tx", None) or ()):  # pytest-xdist, in the process that starts them
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what is to run in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or what tests start would not hear their Ctrl-C


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A notebook's cell has longer to hand over its outputs, once it is done, than nbval's five seconds: with two
    trainings side by side on a slow machine they were too few."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = OUTPUT_SECONDS


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _nothing_is_skipped((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _nothing_is_skipped((yield))


def _nothing_is_skipped(report):
    """In CI a test that was skipped, or was expected to fail, fails: there, everything can run."""
    if STRICT and (report.skipped or hasattr(report, "wasxfail")):
        reason = getattr(report, "wasxfail", None) or report.longrepr
        reason = reason[-1] if isinstance(reason, tuple) else reason
        report.outcome = "failed"
        report.longrepr = f"did not really run, and in CI every test must ({reason})"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    return report
