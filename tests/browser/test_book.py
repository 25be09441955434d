"""The book as a reader gets it: built, its links followed, every page opened in Chromium, the model run in its page.

Screenshots are left in runs/browser, for people to look at.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from lab import served
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from ddpm_lib import pretrained
from ddpm_lib.batch import RUNS
from ddpm_lib.browser import find_chromium
from ddpm_lib.data import CLASS_NAMES
from ddpm_lib.samplers import SampleStep, sample, spaced_timesteps

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "book" / "node_modules"
FAQ = (ROOT / "book" / "faq.md").read_text(encoding="utf-8")
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
    """The folder of the built pages; beside it lies the PDF of them."""
    if not shutil.which("npm") or not find_chromium():
        pytest.skip("the book needs npm, and its tests Chromium; Debian: apt-get install npm chromium")
    built = subprocess.run(["make", "pdf"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    return ROOT / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    """Where the pages are served."""
    with served(book) as address:
        yield address


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


def test_every_module_is_in_the_api_reference(sources: dict[Path, Source]):
    files = (path.relative_to(ROOT) for path in (ROOT / "ddpm_lib").rglob("*.py"))
    modules = {".".join(path.with_suffix("").parts) for path in files if not path.name.startswith("_")}
    ids = set().union(*(source.ids for path, source in sources.items() if path.parent.name == "api"))
    assert len(modules) > 20
    assert sorted(module for module in modules if f"module-{module}" not in ids) == []


def test_every_paper_that_a_notebook_cites_is_in_the_bibliography():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    cited = {number for text in texts for number in re.findall(r"arXiv:(\d{4}\.\d{5})", text)}
    assert len(cited) > 20
    assert sorted(number for number in cited if number not in bibliography) == []


def test_every_question_of_the_faq_has_a_cause_and_a_test():
    questions = re.split(r"(?m)^### ", FAQ)[1:]
    assert len(questions) > 15
    incomplete = [text for text in questions if not ("**Cause**\n: " in text and "**Test**\n: " in text)]
    assert [text.partition("\n")[0] for text in incomplete] == []


def test_every_test_that_the_faq_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", FAQ)
    assert len(named) > 20
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def test_the_pdf_holds_every_notebook_and_leads_nowhere_that_others_lack(book: Path, sources: dict[Path, Source]):
    pdf = (book.parent / "book.pdf").read_bytes()
    pages = len(re.findall(rb"/Type /Page\n", pdf))
    assert pages > 100
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"/notebooks-{path.stem} [".encode() in pdf, f"{path.name} is not in the PDF"
    assert re.findall(rb"/URI \((?:file:|http://(?:127|localhost))[^)]*", pdf) == []
    bookmarks = set(re.findall(rb"/Title \(([^)]*)\)", pdf))
    assert {b"Contents", b"Glossary and notation", b"Bibliography"} <= bookmarks


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


def test_the_model_is_loaded_while_the_reader_reaches_for_the_controls_and_draws_when_asked(demo: Page):
    choose(demo, steps=3)
    demo.locator("#weight").hover()
    demo.get_by_text("The model is loaded.").wait_for(timeout=DRAWN)
    choose(demo, steps=2)  # nothing was asked for yet, so a change draws nothing
    assert demo.evaluate("window.steps") == []
    demo.get_by_role("button", name="Draw").click()
    assert [step["steps"] for step in finished(demo, steps=2)] == [2, 2, 2]


def test_the_keyboard_loads_the_model_as_the_mouse_does(demo: Page):
    demo.locator("#label").focus()
    demo.get_by_text("The model is loaded.").wait_for(timeout=DRAWN)
    demo.locator("#seed").press("Enter")  # which sends a form
    assert len(finished(demo, steps=5)) == 6
    assert demo.troubles == []


def test_nothing_large_is_loaded_before_somebody_reaches_for_the_controls_and_little_after(demo: Page, book: Path):
    loaded = demo.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert [name for name in loaded if name.endswith((".wasm", ".onnx"))] == []
    sizes = {path.name: len(gzip.compress(path.read_bytes())) for path in (book / "demo").iterdir()}
    devices = {"wasm": (".jspi.",), "webgpu": ("ort.wasm.", "threaded.wasm")}  # with what each does not load
    for device, without in devices.items():
        parts = {name: size for name, size in sizes.items() if not any(text in name for text in without)}
        assert sum(parts.values()) < DOWNLOAD, (device, parts)


def test_without_a_graphics_processor_one_thread_draws_even_where_webgpu_is_asked_for(page: Page, address: str):
    page.goto(f"{address}{DEMO}?device=webgpu")
    page.locator("#label option").last.wait_for(state="attached")
    page.evaluate(LISTEN)
    choose(page, steps=2)
    page.get_by_role("button", name="Draw").click()
    assert [step["device"] for step in finished(page, steps=2)] == ["wasm"] * 3


def test_a_device_that_does_not_predict_what_pytorch_does_draws_nothing(page: Page, address: str):
    def spoilt(route: Route) -> None:
        model = route.fetch().json()
        model["known"]["eps"][7] += 0.05
        route.fulfill(json=model)

    for right in (False, True):
        if not right:
            page.route("**/model.json", spoilt)
        page.goto(f"{address}{DEMO}?device=wasm")  # asked for by name, it is verified as WebGPU is
        page.locator("#label option").last.wait_for(state="attached")
        page.evaluate(LISTEN)
        choose(page, steps=2)
        page.get_by_role("button", name="Draw").click()
        if right:
            finished(page, steps=2)
        else:
            expect(page.locator("#news")).to_contain_text("predictions are off by 0.05", timeout=DRAWN)
            page.unroute("**/model.json")
