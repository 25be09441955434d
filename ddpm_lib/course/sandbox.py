"""A kernel for code of strangers: bubblewrap shows it Python and this library, and nothing else of the machine.

Only the kernel is inside; nbgrader, the gradebook and the hidden tests stay outside and talk to it through sockets in
one folder. Inside there is no network, no other process, no writable file but in a small temporary memory. What the
limits of a single process cannot stop (many processes, many files) a watch outside does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipykernel.kernelspec
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ddpm_lib.errors import CourseError

MEMORY = 3 * 1024**3  # bytes of data of one process, and of all together; a kernel with PyTorch takes 0.8 GB
THREADS = 64  # of all processes together; a kernel has a dozen
PROCESSES = 12  # bubblewrap's and the kernel's own are three
FILE_SIZE = 64 * 1024**2  # of one file, and of all files in the shared folder
SCRATCH = 256 * 1024**2  # bytes of temporary memory
CPU_SECONDS = 600
WATCH_SECONDS = 0.3
FIRST_UID = 1_000_000_000  # above what systems give to people and services
LIBRARY = Path(__file__).parents[1]
FOLDER = "ddpm-kernel-"  # then the number of the process that made it
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
SYSTEM += tuple(f"/etc/{name}" for name in ("ld.so.cache", "alternatives", "localtime", "fonts"))


def missing() -> str | None:
    """Why the sandbox cannot be used here; None if it can."""
    if sys.platform != "linux":
        return "bubblewrap runs on Linux only"
    tools = [tool for tool in ("bwrap", "prlimit", "setpriv") if shutil.which(tool) is None]
    if tools:
        return f"{' and '.join(tools)} not found; install them, e.g. apt install bubblewrap util-linux"
    trial = subprocess.run(
        ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "true"], capture_output=True, text=True
    )
    return f"bubblewrap does not start: {trial.stderr.strip()}" if trial.returncode else None


def command(shared: Path) -> list[str]:
    """The words before a program that put it into the sandbox.

    Args:
        shared: all that it shares with outside, read and write; `own` makes it the inner user's.

    Raises:
        CourseError: the sandbox cannot be used here.
    """
    if reason := missing():
        raise CourseError(f"{reason}. Students' code is not run without a sandbox, unless with --unsafe")
    # What is found at these paths is the same inside; Python's own folders may lie anywhere.
    python = {sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
    shown = [*SYSTEM, *sorted(python), str(LIBRARY)]
    words = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    scratch = ["--size", str(SCRATCH), "--perms", "1777", "--tmpfs"]
    words += ["--proc", "/proc", "--dev", "/dev", *scratch, "/dev/shm", "--remount-ro", "/dev", *scratch, "/tmp"]
    parents = {str(parent) for path in [*shown, str(shared)] for parent in Path(path).parents} - {"/", "/tmp"}
    for path in sorted(parents):  # bubblewrap would make them for their owner alone
        words += ["--perms", "0755", "--dir", path]
    for path in shown:
        words += ["--ro-bind-try", path, path]
    words += ["--bind", str(shared), str(shared), "--remount-ro", "/", "--chdir", "/tmp"]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": "/tmp",
        "USER": "student",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name, value in environment.items():
        words += ["--setenv", name, value]
    if (uid := _inner_uid()) is not None:
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"]
        words += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
    else:
        words += ["--"]
    limits = {"data": MEMORY, "nproc": THREADS, "fsize": FILE_SIZE, "cpu": CPU_SECONDS, "core": 0, "nofile": 512}
    return [*words, "prlimit", *(f"--{name}={value}" for name, value in limits.items()), "--"]


def own(folder: Path) -> None:
    """Gives a folder to the user inside."""
    if (uid := _inner_uid()) is not None:
        os.chown(folder, uid, uid)


def _inner_uid() -> int | None:
    """Root's processes are not counted against a limit: become somebody else inside, another one in each grader.

    For everybody else bubblewrap makes a user namespace, with a count of its own.
    """
    return FIRST_UID + os.getpid() if os.geteuid() == 0 else None


def remove_left_behind() -> None:
    """Removes the folders of graders that were killed; those of running ones stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        number = folder.name.removeprefix(FOLDER).partition("-")[0]
        with suppress(OSError):  # another grader was quicker
            if number.isdigit() and not psutil.pid_exists(int(number)) and folder.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


class SandboxedKernel(AsyncKernelManager):
    """A kernel in the sandbox, on the running Python, whatever kernel the notebook names."""

    transport = "ipc"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        remove_left_behind()
        # Nobody else on the machine can enter the outer folder, which the inner one's owner need not be able to.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        own(self.shared)
        self.ip = str(self.shared / "s")  # jupyter_client appends -1 … -5
        self.connection_file = str(self.shared / "connection.json")
        self.watch: asyncio.Task[None] | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        spec = ipykernel.kernelspec.get_kernel_dict()
        spec["argv"] = command(self.shared) + spec["argv"]
        spec["interrupt_mode"] = "message"  # a signal would reach bubblewrap only
        return KernelSpec(resource_dir=ipykernel.kernelspec.RESOURCES, **spec)

    def write_connection_file(self, **arguments: Any) -> None:
        super().write_connection_file(**arguments)
        os.chmod(self.connection_file, 0o644)

    async def start_kernel(self, **arguments: Any) -> None:
        arguments.pop("cwd", None)
        await self._async_start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **arguments)
        self.watch = asyncio.ensure_future(self._watch(psutil.Process(self.provisioner.pid)))

    async def cleanup_resources(self, restart: bool = False) -> None:
        if self.watch is not None:
            self.watch.cancel()
        await self._async_cleanup_resources(restart=restart)
        if not restart:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _watch(self, sandbox: psutil.Process) -> None:
        """Ends the sandbox when it has too many processes, or these together hold too much, or its files do."""
        with suppress(psutil.NoSuchProcess):
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                everybody = [sandbox, *sandbox.children(recursive=True)]
                if len(everybody) > PROCESSES or _memory(everybody) > MEMORY or _size(self.shared) > FILE_SIZE:
                    sandbox.kill()  # what is inside ends with it


def _memory(everybody: list[psutil.Process]) -> int:
    """Bytes that processes hold."""
    total = 0
    for one in everybody:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += one.memory_info().rss
    if total > MEMORY:  # forked processes share most of what they hold: look closely, which takes longer
        total = 0
        for one in everybody:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += one.memory_full_info().pss
    return total


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
