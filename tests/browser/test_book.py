"""The book as a reader gets it: built, its links followed, every page opened in Chromium, the model run in its page.

Screenshots are left in runs/browser, for people to look at.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from lab import find_chromium
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ddpm_lib import pretrained
from ddpm_lib.batch import RUNS
from ddpm_lib.data import CLASS_NAMES
from ddpm_lib.samplers import SampleStep, sample, spaced_timesteps

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "book" / "node_modules"
SHOTS = RUNS / "browser"
DEMO = "demo/index.html"
DOWNLOAD = 8e6  # bytes, compressed: what the demo may load
FRONT_PAGE = 1e6  # bytes, compressed: what the front page may load
SEEN = 1e-3  # a difference of pixels, in [-1, 1], that no eye sees
DRAWN = 60_000  # milliseconds: what eight pictures may take on a slow machine
# What axe-core finds, as lines of text. Formulas are left to MathJax, which describes them in MathML.
AXE = PACKAGES / "axe-core" / "axe.min.js"
SERIOUS = """axe.run({exclude: ["mjx-container"]}, {resultTypes: ["violations"]}).then(({violations}) =>
    violations.filter(({impact}) => ["serious", "critical"].includes(impact)).map(({id, nodes}) =>
        `${id}: ${nodes.slice(0, 3).map(({html}) => html.slice(0, 150)).join(" | ")}`))"""
LISTEN = """() => {
    window.steps = [];
    document.addEventListener("step", ({detail}) =>
        window.steps.push({...detail, x: [...detail.x], x0: [...detail.x0]}));
}"""


@pytest.fixture(scope="module")
def book() -> Path:
    """The folder of the built pages."""
    if not shutil.which("npm") or not find_chromium():
        pytest.skip("the book needs npm, and its tests Chromium; Debian: apt-get install npm chromium")
    built = subprocess.run(["make", "book"], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stdout + built.stderr
    return ROOT / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    """Where the pages are served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    """A browser that has never been anywhere."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        SHOTS.mkdir(parents=True, exist_ok=True)
        yield context


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """A page that notes whatever goes wrong on it, and whatever it asks of another host."""
    page = context.new_page()
    page.troubles = []
    page.on(
        "request", lambda request: page.troubles.append(request.url) if is_elsewhere(request.url, address) else None
    )
    page.on("console", lambda line: page.troubles.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("response", lambda answer: page.troubles.append(answer.url) if answer.status >= 400 else None)
    yield page
    page.close()


def is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


class Source(HTMLParser):
    """What one page's HTML holds: ids, links, pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids |= {value for name, value in attributes if name in ("id", "name") and value}
        self.links += [value for name, value in attributes if name in ("href", "src") and value]
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def sources(book: Path) -> dict[Path, Source]:
    return {path: Source(path) for path in sorted(book.rglob("*.html")) if "_static" not in path.parts}


def test_every_notebook_has_a_page(book: Path):
    names = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert names
    assert [name for name in names if not (book / "notebooks" / f"{name}.html").exists()] == []


def test_no_solution_of_an_assignment_is_in_the_book(book: Path):
    assert [path for path in book.rglob("*") if "source" in path.relative_to(book).parts] == []


def test_every_link_within_the_book_leads_somewhere(sources: dict[Path, Source]):
    broken = []
    for path, source in sources.items():
        for link in source.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            ids = sources[target].ids if target in sources else {parts.fragment, ""}
            if not target.exists() or unquote(parts.fragment) not in ids | {""}:
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_every_picture_is_described(sources: dict[Path, Source]):
    pictures = [(path.name, image) for path, source in sources.items() for image in source.images]
    assert len(pictures) > 50
    assert [picture for picture in pictures if not (picture[1].get("alt") or "").strip()] == []


def test_every_test_that_the_faq_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "book" / "faq.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def test_the_packages_are_pinned_and_the_lock_names_no_host():
    wanted = json.loads((ROOT / "book" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    lock = (ROOT / "book" / "package-lock.json").read_text(encoding="utf-8")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert "://" not in re.sub(r'"url": "[^"]*"', "", lock)  # where to sponsor a package's author is said in "url"


def test_every_page_works_for_everyone_and_asks_no_other_host(
    page: Page, address: str, book: Path, sources: dict[Path, Source]
):
    found: dict[str, list[str]] = {}
    moved = 0
    for path in sources:
        page.goto(address + path.relative_to(book).as_posix())
        if page.locator("script[src*=mathjax]").count():
            page.wait_for_function("window.MathJax?.startup?.promise")
            page.evaluate("MathJax.startup.promise.then(() => null)")
        for slider in page.locator("figure[data-frames] input[type=range]").all():
            moved += 1
            image = slider.locator("xpath=ancestor::figure").locator("img")
            before = image.get_attribute("src")
            slider.press("ArrowRight" if slider.input_value() != slider.get_attribute("max") else "ArrowLeft")
            expect(image, f"a slider of {path.name}").not_to_have_attribute("src", before)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        problems = page.evaluate(SERIOUS)
        for problem in problems + page.troubles:
            found.setdefault(problem, []).append(path.name)
        page.troubles.clear()
    assert found == {}, "\n".join(f"{problem}: {names}" for problem, names in found.items())
    assert moved >= 4


def test_the_front_page_is_light(page: Page, address: str):
    sizes = {}
    page.on("response", lambda answer: sizes.setdefault(answer.url, len(gzip.compress(answer.body()))))
    page.goto(address, wait_until="networkidle")
    assert sum(sizes.values()) < FRONT_PAGE, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_search_finds_a_term(page: Page, address: str):
    page.goto(f"{address}search.html?q=posterior")
    expect(page.locator("#search-results")).to_contain_text("Forward noising", timeout=20_000)
    assert page.troubles == []


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize(("kind", "width"), [("desktop", 1280), ("phone", 390)])
def test_pages_fit_the_screen_in_both_looks(browser: Browser, address: str, look: str, kind: str, width: int):
    with browser.new_context(viewport={"width": width, "height": 844}, color_scheme=look) as context:
        page = context.new_page()
        for name in ("index.html", "notebooks/05_classifier_free_guidance.html", "errata.html", DEMO):
            page.goto(address + name, wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", background)[:3])) < 128) == (look == "dark"), name
            if (kind, look) == ("desktop", "dark"):  # the light look is examined on every page
                page.evaluate(AXE.read_text(encoding="utf-8"))
                assert page.evaluate(SERIOUS) == [], name
            page.screenshot(path=SHOTS / f"book-{Path(name).stem if name != DEMO else 'demo'}-{kind}-{look}.png")


def test_the_look_can_be_chosen_and_is_kept(page: Page, address: str):
    page.goto(address)
    for look in ("dark", "light"):
        page.locator(".theme-switch-button:visible").click()
        page.locator(f".theme-change-button[data-mode={look}]:visible").click()
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == look


# The model in the page


@pytest.fixture
def demo(page: Page, address: str) -> Page:
    page.goto(address + DEMO)
    page.locator("#label option").last.wait_for(state="attached")  # the classes come with the model's description
    page.evaluate(LISTEN)
    return page


def choose(demo: Page, **values: float) -> None:
    """Sets the controls as a reader does: each change is an input event."""
    demo.evaluate(
        """(values) => {
            for (const [name, value] of Object.entries(values)) {
                document.getElementById(name).value = value;
                document.getElementById(name).dispatchEvent(new Event("input", {bubbles: true}));
            }
        }""",
        values,
    )


def finished(demo: Page, steps: int, seed: int = 0) -> list[dict]:
    demo.wait_for_function("(n) => window.steps.at(-1)?.index === n", arg=steps, timeout=DRAWN)
    return demo.evaluate("window.steps")


def test_the_page_draws_what_the_library_draws(demo: Page):
    choose(demo, label=7, weight=2, seed=3, steps=6)
    demo.get_by_role("button", name="Draw").click()
    drawn = finished(demo, steps=6)

    (name, epoch, n) = demo.evaluate(
        "fetch('model.json').then(r => r.json()).then(m => [m.model, m.epoch, m.pictures])"
    )
    library: list[SampleStep] = []
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    options = {"guidance_weight": 2.0, "sampler": "dpm_solver", "steps": 6, "clip_x_0": True, "generator": generator}
    labels = torch.full((n,), 7)
    model, schedule = pretrained.load(name, epoch), pretrained.schedule(name)
    sample(model, schedule, y=labels, callback=library.append, **options)

    assert [step["index"] for step in drawn] == [0, 1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(torch.tensor(drawn[0]["x"]).reshape(noise.shape), noise, atol=1e-5, rtol=0)
    pairs = zip(library, drawn[1:], strict=True)
    gaps = [float((torch.tensor(theirs["x"]).reshape(noise.shape) - ours.x).abs().max()) for ours, theirs in pairs]
    assert max(gaps) < SEEN, gaps
    demo.locator("main").screenshot(path=SHOTS / "book-demo-drawn.png")
    assert demo.troubles == []


def test_a_change_ends_what_is_being_drawn(demo: Page):
    choose(demo, steps=20)
    demo.get_by_role("button", name="Draw").click()
    demo.wait_for_function("window.steps.length >= 2", timeout=DRAWN)
    choose(demo, steps=2)
    drawn = finished(demo, steps=2)
    assert max(step["index"] for step in drawn) < 20
    assert [step["index"] for step in drawn if step["steps"] == 2] == [0, 1, 2]


def test_the_page_visits_the_timesteps_that_the_library_visits(demo: Page):
    counts = range(1, 61)
    visits = "import('./sampler.js').then(({visits}) => counts.map((steps) => visits(1000, steps)))"
    found = demo.evaluate(f"(counts) => {visits}", list(counts))
    assert found == [spaced_timesteps(1000, steps, "quadratic") for steps in counts]


def test_the_page_knows_the_classes(demo: Page):
    assert demo.locator("#label option").all_inner_texts() == list(CLASS_NAMES)


def test_nothing_large_is_loaded_before_the_first_click_and_little_after(demo: Page, book: Path):
    loaded = demo.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert [name for name in loaded if name.endswith((".wasm", ".onnx"))] == []
    files = [path for path in (book / "demo").iterdir() if path.suffix != ".html"]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < DOWNLOAD
