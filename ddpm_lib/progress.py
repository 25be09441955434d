"""Progress bars that can be followed from another process: in a notebook that runs headlessly, nobody sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ddpm_lib.files import temporary_folder

PROGRESS_VARIABLE = "DDPM_PROGRESS"
TOLD = "{unit} {n_fmt}/{total_fmt}, {remaining} left{postfix}"
SECONDS = 1.0  # between two lines


class ProgressBar(tqdm):
    """tqdm's bar: a widget in a notebook, text elsewhere. Whoever follows (see `followed`) finds it as a line, too."""

    _told_at = float("-inf")

    def display(self, *arguments: Any, **options: Any) -> Any:
        """Shows the bar as it is now; tqdm calls this, no more than ten times a second."""
        folder = os.environ.get(PROGRESS_VARIABLE)
        if folder and not self.disable and time.monotonic() - self._told_at >= SECONDS:
            self._told_at = time.monotonic()
            with suppress(OSError):  # a line that cannot be written must not end the work that it tells of
                path = Path(folder) / str(os.getpid())
                path.with_suffix(".new").write_text(self.format_meter(**{**self.format_dict, "bar_format": TOLD}))
                path.with_suffix(".new").replace(path)
        return super().display(*arguments, **options)

    def close(self) -> None:
        """Ends the bar, and its line."""
        if not self.disable and (folder := os.environ.get(PROGRESS_VARIABLE)):
            (Path(folder) / str(os.getpid())).unlink(missing_ok=True)
        super().close()


@contextmanager
def followed() -> Iterator[Callable[[], list[str]]]:
    """Gives a function: the newest lines of the bars that processes show, of those that started during the block.

    with followed() as lines:
        ...  # start them
        lines()  # ["step 134/160, 00:50 left, loss=0.031"]
    """
    with temporary_folder(PROGRESS_VARIABLE) as folder:

        def lines() -> list[str]:
            found = []
            for path in sorted(folder.glob("[0-9]*[0-9]")):
                with suppress(FileNotFoundError, ProcessLookupError):  # the bar has just ended, or was killed
                    os.kill(int(path.name), 0)  # no signal: only whether that process is there
                    found.append(path.read_text())
            return found

        yield lines
