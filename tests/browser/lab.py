"""The real JupyterLab and a real browser, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},  # or pages ask each other about files changed on disk
}
START_SECONDS = 180


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder's files from a web server on this machine; gives the address of the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """JupyterLab on a folder, with settings of its own; gives the address of a notebook but for its name.

    Each notebook gets a workspace of its own: in a shared one a page opens the notebooks of the others, too.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as home:
        settings = Path(home) / "settings"
        for name, values in SETTINGS.items():
            path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.root_dir": folder,
            "IdentityProvider.token": token,
            "ServerApp.disable_check_xsrf": True,  # a new page's first requests fail it now and then
            "LabApp.user_settings_dir": settings,
            "LabApp.workspaces_dir": Path(home) / "workspaces",
            "JupyterNotebookApp.expose_app_in_browser": True,  # Notebook 7 comes with the server
        }
        own = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"), home)
        with open(Path(home) / "log", "w+") as log:
            server = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env={**os.environ, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait(f"http://127.0.0.1:{port}/api?token={token}", server, Path(home) / "log")
                yield f"http://127.0.0.1:{port}/lab/workspaces/{{0}}/tree/{{0}}.ipynb?token={token}"
            finally:
                server.terminate()  # ends its kernels, too
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    server.kill()


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not _answers(address):
        if time.monotonic() > end or server.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def command(page: Page, name: str, arguments: dict | None = None) -> None:
    """Carries out one of JupyterLab's commands and waits until it is done."""
    page.evaluate(
        "([name, given]) => window.jupyterapp.commands.execute(name, given).then(() => null)", [name, arguments or {}]
    )


def open_notebook(page: Page, address: str) -> None:
    """Opens a notebook and waits until its kernel has answered."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator", timeout=60_000)
    page.evaluate("""async () => {
        const session = window.jupyterapp.shell.currentWidget.sessionContext;
        await session.ready;
        await session.session.kernel.info;
    }""")


def note_troubles(page: Page) -> None:
    """Collects the page's errors in page.troubles."""
    page.troubles = []

    def note(said: ConsoleMessage) -> None:
        # A new kernel knows no widgets yet and refuses the manager's first call; JupyterLab may report the refusal.
        if said.type == "error" and not said.text.startswith("Comm not found"):
            page.troubles.append(f"{said.text} ({said.location['url']})")

    page.on("console", note)
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
