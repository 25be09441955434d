"""What every stored notebook must be like: each rule takes a notebook and returns its problems, in words."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbval.plugin import find_comment_markers

from ddpm_lib.batch import check_parameters, declared_parameters
from ddpm_lib.stored import IGNORED_OUTPUT, normalised

Rule = Callable[[NotebookNode], list[str]]

WORDS = range(1500, 3501)
LONGEST_CELL = 25  # lines
MOST_IGNORED = 0.4  # of the code cells
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|tmp|mnt|opt)/\w|\b[A-Z]:\\")
PACKAGE_SOURCE = re.compile(r"--(?:extra-)?index-url\b|--find-links\b|/simple/|\bpip download\b")
REASON = re.compile(r"#.*\b(?:nbval|compared|checked|output)\b")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def outputs(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    return ((cell, output) for cell in code_cells(notebook) for output in cell.outputs)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def start(cell: NotebookNode) -> str:
    """How a message names a cell."""
    return f"cell {cell.get('id', '')} `{cell.source.strip().partition(chr(10))[0][:60]}`"


def valid_notebook(notebook: NotebookNode) -> list[str]:
    """A valid notebook of format 4.5, each cell with an id of its own."""
    ids = [cell.get("id") for cell in notebook.cells]
    problems = [f"id {name!r} on {ids.count(name)} cells" for name in sorted(set(ids), key=str) if ids.count(name) > 1]
    problems += ["format below 4.5"] * ((notebook.nbformat, notebook.nbformat_minor) < (4, 5))
    if problems:
        return problems  # the validator would repair them
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [str(error)]
    return []


def title_first(notebook: NotebookNode) -> list[str]:
    """The first cell starts with a title, and there is no other heading of that rank."""
    first = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    titles = [line for cell in prose(notebook) for line in without_code(cell.source).splitlines() if line[:2] == "# "]
    return [] if first.startswith("# ") and len(titles) == 1 else [f"titles: {titles}"]


def one_parameters_cell(notebook: NotebookNode) -> list[str]:
    """One cell is tagged `parameters`; it holds only lines like `epochs: float = 2.0  # passes over the data`."""
    cells = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged parameters"]
    statements = ast.parse(cells[0].source).body
    lines = cells[0].source.splitlines()
    return [
        f"line {number}: {lines[number - 1]}"
        for statement in statements
        for number in [statement.end_lineno]
        if not (isinstance(statement, ast.AnnAssign) and statement.value and re.search(r"#\s*\w", lines[number - 1]))
    ]


def executed_in_order(notebook: NotebookNode) -> list[str]:
    """Every code cell was executed, from top to bottom in one go, and something came out."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    problems = [f"execution counts {counts}"] * (counts != list(range(1, len(counts) + 1)))
    return problems + ["no output is stored at all"] * (not any(outputs(notebook)))


def no_error_and_no_stderr(notebook: NotebookNode) -> list[str]:
    """No stored output is an error or went to stderr."""
    return [
        f"{start(cell)}: {output.get('evalue') or output.get('text')}"
        for cell, output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def few_outputs_ignored(notebook: NotebookNode) -> list[str]:
    """Most outputs are compared; a cell whose output is not says why, in a comment or as `reason` in its metadata."""
    cells = code_cells(notebook)
    ignored = [cell for cell in cells if IGNORED_OUTPUT in tags(cell)]
    problems = [f"{start(cell)}: no reason" for cell in ignored if not has_reason(cell)]
    if len(ignored) > MOST_IGNORED * len(cells):
        problems.append(f"{len(ignored)} of {len(cells)} code cells are tagged {IGNORED_OUTPUT}")
    return problems


def has_reason(cell: NotebookNode) -> bool:
    return bool(str(cell.metadata.get("reason", "")).strip() or REASON.search(cell.source))


def every_cell_runs_when_compared(notebook: NotebookNode) -> list[str]:
    """No cell is skipped or may fail, and what is not compared shows in the tags, not in comments."""
    hidden = {"nbval-skip", "nbval-raises-exception", "raises-exception", "skip-execution"}
    return [
        f"{start(cell)}: {sorted(hidden & set(tags(cell)))} {list(find_comment_markers(cell.source))}"
        for cell in code_cells(notebook)
        if hidden & set(tags(cell)) or list(find_comment_markers(cell.source))
    ]


def short_cells(notebook: NotebookNode) -> list[str]:
    """No code cell is longer than 25 lines, and none is empty."""
    lengths = [(cell, len(cell.source.strip().splitlines())) for cell in code_cells(notebook)]
    return [f"{start(cell)}: {length} lines" for cell, length in lengths if not 1 <= length <= LONGEST_CELL]


def images_have_alt_text(notebook: NotebookNode) -> list[str]:
    """Every picture, in the prose or drawn by a cell, has a description for readers who do not see it."""
    text = "\n".join(without_code(cell.source) for cell in prose(notebook))
    problems = re.findall(r"!\[\s*\]\([^)]*\)", text)
    drawn = "".join(output.get("data", {}).get("text/html", "") for _, output in outputs(notebook))
    problems += [tag for tag in re.findall(r"<img\b[^>]*>", text + drawn) if not re.search(r"\balt=[\"'][^\"']", tag)]
    problems += [
        f"{start(cell)}: a picture without alt text; plotting.show(figure, alt=…) sets it"
        for cell, output in outputs(notebook)
        if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt", "").strip()
    ]
    return problems


def enough_prose_and_not_too_much(notebook: NotebookNode) -> list[str]:
    """1,500 to 3,500 words of prose; code, formulas and addresses do not count."""
    words = count_words("\n".join(cell.source for cell in prose(notebook)))
    return [] if words in WORDS else [f"{words} words"]


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", " ", markdown, flags=re.DOTALL | re.MULTILINE)


def count_words(markdown: str) -> int:
    markdown = without_code(markdown)
    for pattern in (r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"\]\([^)]*\)", r"https?://\S+", r"<[^>]+>"):
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL)
    return sum(any(character.isalpha() for character in word) for word in markdown.split())


def nothing_of_one_machine(notebook: NotebookNode) -> list[str]:
    """No absolute path of the author's machine and no place it installs packages from, in sources or outputs."""
    return [
        f"…{line.strip()[:100]}…"
        for text in texts(notebook)
        for line in text.splitlines()
        if MACHINE_PATH.search(line) or PACKAGE_SOURCE.search(line)
    ]


def texts(notebook: NotebookNode) -> Iterator[str]:
    """Everything readable; pictures are base64, in which any letters may occur."""
    yield str(dict(notebook.metadata))
    for cell in notebook.cells:
        yield cell.source
    for _, output in outputs(notebook):
        yield output.get("text", "")
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", value)


def as_make_outputs_stores_it(notebook: NotebookNode) -> list[str]:
    """The notebook was stored by `make outputs`: no times, no version numbers, no records of papermill."""
    clean = normalised(deepcopy(notebook))
    problems = [f"metadata {notebook.metadata}"] * (clean.metadata != notebook.metadata)
    pairs = zip(notebook.cells, clean.cells, strict=True)
    return problems + [start(stored) for stored, expected in pairs if stored != expected]


RULES: tuple[Rule, ...] = (
    valid_notebook,
    title_first,
    one_parameters_cell,
    executed_in_order,
    no_error_and_no_stderr,
    few_outputs_ignored,
    every_cell_runs_when_compared,
    short_cells,
    images_have_alt_text,
    enough_prose_and_not_too_much,
    nothing_of_one_machine,
    as_make_outputs_stores_it,
)


def parameter_lines(path: Path) -> list[ast.AnnAssign]:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "parameters" in tags(cell)]
    return [statement for cell in cells for statement in ast.parse(cell.source).body]


def unseen_parameters(path: Path) -> set[str]:
    """Names that Python sees in the cell and papermill does not, as with `x: int | None = 3` or a second "="."""
    return {line.target.id for line in parameter_lines(path)} ^ set(declared_parameters(path))


def defaults(path: Path) -> dict[str, Any]:
    """Every parameter's default; each has its declared type."""
    values = {line.target.id: ast.literal_eval(line.value) for line in parameter_lines(path)}
    check_parameters(path, values)
    return values
