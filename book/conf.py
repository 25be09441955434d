"""How Sphinx makes the book: from the notebooks as they are stored; nothing is executed or comes from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx

BOOK = Path(__file__).parent
ROOT = BOOK.parent
PACKAGES = BOOK / "node_modules"
MODEL = BOOK / "_build" / "model"  # where `make book` has export_model.py write
NOTEBOOKS = BOOK / "notebooks"  # a copy, made anew at each build: Sphinx reads only what lies beside this file
RUNTIMES = {  # the demo loads one of them: a script and what it runs
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}

project = "Diffusion models from scratch"
author = "the course's authors"
release = installed_version("ddpm-lib")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "node_modules", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # stored notebooks hold no live widgets, so their scripts are not needed
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = True
mathjax_path = "mathjax/tex-chtml.js"

default_role = "code"  # a docstring's `x` is code
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

html_title = "Diffusion models from scratch"
html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = True
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_theme_options = {
    "path_to_docs": ".",
    "use_download_button": True,
    "use_fullscreen_button": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search field stands in the sidebar
}
# Where the book is built for a public repository, its address gives each notebook a button that starts it there.
if repository := os.environ.get("BOOK_REPOSITORY"):
    html_theme_options |= {
        "repository_url": repository,
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"},
    }


def copy_notebooks() -> None:
    """Takes over the notebooks as they are, and the pages on assignments and sweeps; not the folders beside these.

    Those hold what is not for readers of the book, the solutions among them.
    """
    shutil.rmtree(NOTEBOOKS, ignore_errors=True)
    for folder in ("", "assignments", "sweeps"):
        (NOTEBOOKS / folder).mkdir(parents=True)
        for pattern in ("*.ipynb", "*.md", "*.png", "*.csv"):
            for path in (ROOT / "notebooks" / folder).glob(pattern):
                shutil.copy2(path, NOTEBOOKS / folder)  # with its time: Sphinx reads again what is newer


copy_notebooks()

# The pages of the API reference, with modules and whole packages; what is not named here stands on the last page.
API = {
    "process": ("schedules", "embedding", "diffusion"),
    "network": ("unet", "guidance", "ema", "posthoc"),
    "sampling": ("sampler_steps", "samplers"),
    "training": ("config", "data", "data_files", "training", "runs", "multi_gpu", "run_files", "checkpoints"),
    "evaluation": ("classifier", "evaluation", "records", "pretrained", "retrained", "table1", "studies"),
    "pictures": ("plotting", "frames", "live", "films", "widgets", "model_widgets", "training_view", "blind_test"),
    "sweeps": ("sweeps",),
    "course": ("course",),
    "tools": (),
}


def api_modules(page: str) -> list[str]:
    """The modules of one page of the API reference, in the order in which they import each other."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    after = readme.partition("each module imports only from those above it:")[2]
    every = []
    # A package stands as package (module · …).
    for name, inside in re.findall(r"([\w.]+)(?:\s*\(([^)]*)\))?", after.partition("tests/")[0]):
        every += [f"{name}.{module}" for module in re.findall(r"\w+", inside)] or [name]
    placed = {name for names in API.values() for name in names}
    if not API[page]:
        return [module for module in every if placed.isdisjoint((module, module.partition(".")[0]))]
    return [module for name in API[page] for module in every if name in (module, module.partition(".")[0])]


def reading_path() -> str:
    """A table of the notebooks, in order, with the times that they themselves give."""
    rows = ["| notebook | time to read and try |", "|---|---|"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title = first.partition("\n")[0].removeprefix("# ")
        time = re.search(r"\*\*Time\*\* (.+?) to read", first)
        rows.append(f"| [{title}](notebooks/{path.name}) | {time[1] if time else ''} |")
    return "\n".join(rows)


def other_pages() -> str:
    """The pages on assignments and sweeps, one a line."""
    pages = sorted({path.with_suffix("") for path in NOTEBOOKS.glob("*/*") if path.suffix in (".md", ".ipynb")})
    return "\n".join(str(page.relative_to(BOOK)) for page in pages)


def fill_placeholders(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts in what pages leave to be made here: `{modules}` on those of the API, two lists on the front page."""
    folder, _, page = docname.rpartition("/")
    if docname == "index":
        for path in NOTEBOOKS.glob("*.ipynb"):  # the times in them
            app.env.note_dependency(path)
    if folder == "api" and page in API:
        for path in (ROOT / "README.md", BOOK / "conf.py"):  # the list of modules, and their pages
            app.env.note_dependency(path)
        blocks = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: ddpm_lib.{name}\n```" for name in api_modules(page)]
        source[0] = source[0].replace("{modules}", "\n\n".join(blocks))
    source[0] = source[0].replace("{reading path}", reading_path()).replace("{other pages}", other_pages())


def copy_vendored(app: Sphinx) -> None:
    """Lays what pages load beside them: MathJax, the demo, its runtime and its model."""
    shutil.copytree(PACKAGES / "mathjax" / "es5", Path(app.outdir, "_static", "mathjax"), dirs_exist_ok=True)
    demo = Path(app.outdir, "demo")
    shutil.copytree(BOOK / "demo", demo, dirs_exist_ok=True)
    for name in (name for runtime in RUNTIMES.values() for name in runtime):
        shutil.copy(PACKAGES / "onnxruntime-web" / "dist" / name, demo)
    shutil.copy(MODEL / "model.onnx", demo)
    description = json.loads((MODEL / "model.json").read_text(encoding="utf-8"))
    # Lets the page show how far loading has come: what the server sends may be compressed, and then hides its size.
    description["bytes"] = {
        device: {name: (demo / name).stat().st_size for name in (binary, "model.onnx")}
        for device, (_, binary) in RUNTIMES.items()
    }
    (demo / "model.json").write_text(json.dumps(description), encoding="utf-8")


def with_alt_text(render_image: Callable[..., list[nodes.Element]]) -> Callable[..., list[nodes.Element]]:
    """MyST-NB's way to show a picture, with the alt text that `plotting.show` stores beside it."""

    def described(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
        images = render_image(self, data)
        if alt := data.output_metadata.get(data.mime_type, {}).get("alt"):
            images[0]["alt"] = alt
        return images

    return described


def show_blocks_as_code(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """In a module's docstring an indented block is code; reStructuredText wants that marked."""
    if what == "module":
        lines[:] = re.sub(r"(?m)^((?:\S.*:)?)\n(?= +\S)", r"\1\n\n::\n\n", "\n".join(lines)).split("\n")


def setup(app: Sphinx) -> None:
    # MyST-NB takes renderers from installed packages only, and this is none.
    NbElementRenderer.render_image = with_alt_text(NbElementRenderer.render_image)
    app.connect("builder-inited", copy_vendored)
    app.connect("source-read", fill_placeholders)
    app.connect("autodoc-process-docstring", show_blocks_as_code)
