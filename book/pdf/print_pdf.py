"""Prints the built book, all of it, as one PDF: `python book/pdf/print_pdf.py HTML_FOLDER FILE.pdf`.

Chromium does it, so that a page looks in print as it does on the screen: formulas, tables, pictures. A slider shows the
frame that it starts with; folded answers are open.
"""

from __future__ import annotations

import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page

from ddpm_lib.browser import chromium, find_chromium

HERE = Path(__file__).parent
FOOTER = (
    '<div style="width:100%;font:7pt sans-serif;color:#555;text-align:center">'
    'Diffusion models from scratch · <span class="pageNumber"></span></div>'
)


def page_numbers(pdf: bytes) -> dict[str, int]:
    """On which page each target of a link stands, by its id: read from a PDF as Chromium writes it, uncompressed."""
    pages = re.findall(rb"(\d+) 0 obj\n<</Type /Page\n", pdf)
    targets = re.findall(rb"/([\w-]+) \[(\d+) 0 R /XYZ", pdf)
    return {name.decode(): pages.index(page) + 1 for name, page in targets}


def printed(page: Page) -> bytes:
    """The filled page as a PDF."""
    # Laid out twice: the first time nothing is drawn, to learn where the chapters begin.
    hide = page.add_style_tag(content="* { visibility: hidden !important }")
    numbers = page_numbers(page.pdf(prefer_css_page_size=True))
    hide.evaluate("(style) => style.remove()")
    page.evaluate("(numbers) => number(numbers)", numbers)
    return page.pdf(
        prefer_css_page_size=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
        outline=True,  # bookmarks, from the headings
        tagged=True,  # for screen readers
    )


def main(book: Path, file: Path) -> None:
    """Writes `file` from the folder of built pages."""
    if find_chromium() is None:
        sys.exit("printing the book needs Chromium or Chrome; Debian: apt-get install chromium")

    class Pages(SimpleHTTPRequestHandler):
        """The book's pages, and beside them those of this folder."""

        def translate_path(self, path: str) -> str:
            if path == "/print.html" or path.startswith("/pdf/"):
                return str(HERE / path.rpartition("/")[2])
            return super().translate_path(path)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=book))
    with server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(color_scheme="light")
        page.goto(f"http://127.0.0.1:{server.server_port}/print.html")
        page.wait_for_function("!!window.fill")
        wrong = page.evaluate("fill()")
        pdf = b"" if wrong else printed(page)
        server.shutdown()
    if wrong:
        sys.exit("the book cannot be printed:\n" + "\n".join(wrong))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pdf)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
