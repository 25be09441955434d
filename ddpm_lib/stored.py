"""The form in which executed notebooks are stored: what differs from run to run without meaning anything goes."""

from __future__ import annotations

from copy import deepcopy

from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
IGNORED_OUTPUT = "nbval-ignore-output"  # the tag of a cell whose output nbval does not compare


def normalised(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook without what differs from run to run; the form in which notebooks are stored.

    Papermill's records, execution times and the Python version go; pieces of one printed text are joined;
    live widgets, which end with their kernel, leave the other forms of their output; cells that nbval does not
    compare lose their stderr, the progress bars.
    """
    notebook = deepcopy(notebook)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            ignored = IGNORED_OUTPUT in cell.metadata.get("tags", ())
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET_VIEW, None)
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
