"""The form in which executed notebooks are stored: what differs from run to run without meaning anything goes."""

from __future__ import annotations

import json
import re

import nbformat
from nbformat import NotebookNode

IGNORED_OUTPUT = "nbval-ignore-output"  # the tag of a cell whose output nbval does not compare


def normalised(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook without what differs from run to run; the form in which notebooks are stored.

    Papermill's records, execution times and the Python version go; pieces of one printed text are joined;
    widgets get numbers in place of random names; cells that nbval does not compare lose their stderr, the
    progress bars.
    """
    notebook = _with_numbered_widgets(notebook)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            ignored = IGNORED_OUTPUT in cell.metadata.get("tags", ())
            cell.outputs = _joined_streams(
                [output for output in cell.outputs if not (ignored and output.get("name") == "stderr")]
            )
    return notebook


def _joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _with_numbered_widgets(notebook: NotebookNode) -> NotebookNode:
    """Widgets are named 1, 2, … in the order in which the outputs refer to them, and they to each other."""
    name = re.compile("[0-9a-f]{32}")
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    states = {key: json.dumps(state, sort_keys=True) for key, state in widgets.get("state", {}).items()}
    numbers: dict[str, str] = {}

    def number(text: str) -> None:
        for key in name.findall(text):
            if key in states and key not in numbers:
                numbers[key] = f"{len(numbers) + 1:032x}"
                number(states[key])

    number(json.dumps(notebook.cells))
    for key in sorted(states, key=lambda key: name.sub("", states[key])):  # not displayed; links, for instance
        number(key)
    text = name.sub(lambda match: numbers.get(match[0], match[0]), json.dumps(notebook))
    return nbformat.from_dict(json.loads(text))
