"""What a notebook gives back: numbers and words under names, kept in its executed copy.

    from ddpm_lib.results import record

    record(fid=evaluation.fid.value, sampler_calls=25)

A sweep gathers them into its table (see sweeps).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from IPython.display import display

from ddpm_lib.errors import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode  # loading it would take a kernel longer than to start

MIME = "application/x-ddpm-results"  # no "+json": Jupyter would refuse NaN, which a diverged training gives
INTERVAL = ("_low", "_high")  # what a name gets at its end where the ends of its interval are recorded


def record(**values: Any) -> None:
    """Gives results back from a notebook: shown under the cell, and read from the executed copy by `recorded`.

    Args:
        values: numbers, strings, booleans or None, by name; one-element tensors and arrays count as their number.
            A name recorded again takes the newer value.

    Raises:
        InputError: a value is something else.
    """
    plain = {name: _plain(value) for name, value in values.items()}
    for name, value in plain.items():
        if not isinstance(value, int | float | str | bool | None):
            raise InputError(
                f"{name} is a {type(value).__name__}; record takes single numbers, strings, booleans and None"
            )
    text = "\n".join(f"{name} = {value!r}" for name, value in plain.items())
    display({"text/plain": text, MIME: json.dumps(plain)}, raw=True)


def recorded(notebook: NotebookNode) -> dict[str, Any]:
    """All that the cells of an executed notebook gave to `record`, by name."""
    values: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if text := output.get("data", {}).get(MIME):
                values |= json.loads(text)
    return values


def _plain(value: Any) -> Any:
    """A Python number for a NumPy one, or for a tensor or array of one element."""
    return value.item() if getattr(value, "shape", None) is not None and value.shape in ((), (1,)) else value
