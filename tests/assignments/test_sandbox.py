"""What a malicious submission tries, and what it gets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from planted import SOURCE

from ddpm_lib.course import sandbox

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    if reason := sandbox.missing():
        pytest.skip(reason)


def run(*sources: str, timeout: int = 30) -> list[str]:
    """Runs cells in one sandboxed kernel; what each printed, or the name of its error."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    options = {"timeout": timeout, "interrupt_on_timeout": True, "allow_errors": True, "kernel_name": "python3"}
    NotebookClient(notebook, kernel_manager_class=sandbox.SandboxedKernel, **options).execute()
    return [_said(cell) for cell in notebook.cells]


def _said(cell: NotebookNode) -> str:
    parts = [output.text if output.output_type == "stream" else output.get("ename", "") for output in cell.outputs]
    return "".join(parts).strip()


def test_the_attacks_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "for the teacher only")
    (tmp_path / "gradebook.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attacks = {
            "a server of this machine": (
                f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
                "Connection",
            ),
            "the internet": ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "OSError"),
            "the solutions": (f"open({str(SOURCE / 'ps1' / 'ps1.ipynb')!r})", "FileNotFoundError"),
            "the planted mistakes": (f"open({str(Path(__file__))!r})", "FileNotFoundError"),
            "the gradebook": (f"open({str(tmp_path / 'gradebook.db')!r})", "FileNotFoundError"),
            "all notebooks": (
                "import os, sys\n"
                "skipped = ('/usr', '/proc', '/lib', sys.prefix, sys.base_prefix)\n"
                "found = [name for folder, _, names in os.walk('/') for name in names\n"
                "         if not folder.startswith(skipped) and name.endswith(('.ipynb', '.db'))]\n"
                "print(found)",
                "[]",
            ),
            "passwords": ("open('/etc/passwd')", "FileNotFoundError"),
            "the environment": ("import os; print(os.environ.get('A_SECRET'))", "None"),
            "other processes": ("print(len([name for name in os.listdir('/proc') if name.isdigit()]) < 8)", "True"),
            "the library": (f"open({str(HERE / 'ddpm_lib' / 'checks.py')!r}, 'a')", "Error"),
            "a file beside": ("open('/x', 'w')", "Error"),
            "memory": ("bytearray(4 * 1024**3)", "MemoryError"),
            "a large file": ("open('/tmp/x', 'wb').write(bytes(100 * 1024**2))", "OSError"),
            "threads": (
                "import threading\n"
                "for _ in range(200): threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()",
                "RuntimeError",
            ),
            "root": (
                "print(os.getuid() != 0, open('/proc/self/status').read().count('CapEff:\\t0000000000000000'))",
                "True 1",
            ),
            "honest work": ("import torch, ddpm_lib.checks; print(torch.ones(2).sum().item())", "2.0"),
        }
        said = dict(zip(attacks, run(*(source for source, _ in attacks.values())), strict=True))
    assert {name for name, (_, expected) in attacks.items() if expected not in said[name]} == set(), said


def test_time_is_limited_and_the_kernel_goes_on():
    assert run("while True: pass", "print('next')", timeout=2) == ["KeyboardInterrupt", "next"]


def test_a_fork_bomb_ends_at_once():
    with pytest.raises(DeadKernelError):
        run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")


def test_what_a_killed_grader_leaves_behind_is_removed_at_the_next_start_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = (
        "import os, signal\n"
        "from ddpm_lib.course.sandbox import SandboxedKernel\n"
        "kernel = SandboxedKernel()\n"
        "(kernel.shared / 'connection.json').touch()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", killed], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / "ddpm-kernel-of-somebody").mkdir()
    running = sandbox.SandboxedKernel()
    next_one = sandbox.SandboxedKernel()
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "ddpm-kernel-of-somebody",
        running.folder.name,
        next_one.folder.name,
    }


def test_many_processes_cannot_share_out_the_memory(monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 600 * 1024**2)
    with pytest.raises(DeadKernelError):
        run("import os, time\nfor _ in range(2): os.fork()\nheld = os.urandom(200 * 1024**2)\ntime.sleep(20)")


def test_many_files_cannot_fill_the_disk(monkeypatch):
    monkeypatch.setattr(sandbox, "FILE_SIZE", 2 * 1024**2)
    with pytest.raises(DeadKernelError):
        run(
            "import os, sys, time\n"
            "folder = os.path.dirname(sys.argv[sys.argv.index('-f') + 1])\n"
            "for number in range(4): open(f'{folder}/{number}', 'wb').write(bytes(1024**2))\n"
            "time.sleep(20)"
        )
