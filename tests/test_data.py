"""Fashion-MNIST is found, verified, loaded; whatever is wrong with it is said in one error.

All tests but the last section's use a made-up data set of six and four images and sources that are folders.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ddpm_lib import data, data_files
from ddpm_lib.data import CLASS_NAMES, load_fashion_mnist, parse_idx
from ddpm_lib.data_files import find_fashion_mnist
from ddpm_lib.errors import DataError, InputError

CHECKOUT = Path(__file__).resolve().parents[1]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def fake_contents() -> dict[str, bytes]:
    """Six training and four test images of seeded bytes, as the four unpacked files."""
    random = np.random.default_rng(0)
    contents = {}
    for images, labels, _ in data.SPLITS.values():
        count = 6 if images == IMAGES else 4
        contents[images] = idx(random.integers(0, 256, (count, 28, 28)))
        contents[labels] = idx(np.arange(count))
    return contents


def put(folder: Path, contents: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def checksums(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()}


@pytest.fixture
def contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The made-up data set takes Fashion-MNIST's place; the cache is empty, and there are no sources."""
    contents = fake_contents()
    monkeypatch.setattr(data_files, "CHECKSUMS", checksums(contents))
    monkeypatch.setattr(
        data, "SPLITS", {"train": (*data.SPLITS["train"][:2], 6), "test": (*data.SPLITS["test"][:2], 4)}
    )
    monkeypatch.setattr(data_files, "SOURCES", ())
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    data._load.cache_clear()
    yield contents
    data._load.cache_clear()


@pytest.fixture
def chosen(contents, tmp_path, monkeypatch) -> Path:
    """A good folder that FASHION_MNIST_DIR names."""
    folder = put(tmp_path / "chosen", contents)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    return folder


def use_sources(monkeypatch: pytest.MonkeyPatch, **sources: Path | Exception) -> list[str]:
    """Install sources, each a folder or a failure; the list returned grows by a name whenever one is asked."""
    asked = []

    def fetch(name: str, what: Path | Exception, staging: Path) -> Path:
        asked.append(name)
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(data_files, "SOURCES", tuple((n, partial(fetch, n, what)) for n, what in sources.items()))
    return asked


# --- loading


@pytest.mark.parametrize("packed", [True, False], ids=["gz", "unpacked"])
def test_images_are_the_bytes_scaled_and_labels_the_bytes(contents, tmp_path, monkeypatch, packed):
    monkeypatch.setenv("FASHION_MNIST_DIR", str(put(tmp_path / "chosen", contents, packed)))
    images, labels = load_fashion_mnist("train")
    pixels = np.frombuffer(contents[IMAGES][16:], dtype=np.uint8).reshape(6, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert_close(images, torch.from_numpy(pixels / 127.5 - 1).float())
    assert_close(labels, torch.arange(6))


def test_the_splits_are_different_files(chosen):
    assert len(load_fashion_mnist("train").images) == 6
    assert len(load_fashion_mnist("test").images) == 4


@pytest.mark.parametrize("limit", [1, 5, 6, np.int64(5)])
def test_limit_takes_the_first(chosen, limit):
    images, labels = load_fashion_mnist("train", limit)
    assert_close(images, load_fashion_mnist("train").images[:limit])
    assert_close(labels, torch.arange(limit))


def test_a_second_call_reads_nothing(chosen):
    first = load_fashion_mnist("train").images
    load_fashion_mnist("test")
    for path in chosen.iterdir():
        path.unlink()
    assert load_fashion_mnist("train", limit=2).images.data_ptr() == first.data_ptr()


def test_another_folder_is_read_anew(chosen, tmp_path, monkeypatch):
    load_fashion_mnist("train")
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no such folder"):
        load_fashion_mnist("train")


@pytest.mark.parametrize("split", ["trian", "validation", "", None, 0, ["train"]])
def test_an_unknown_split_is_refused_with_the_known_ones(chosen, split):
    with pytest.raises(InputError, match=r"unknown split .*Known: test, train"):
        load_fashion_mnist(split)


def test_a_mistyped_split_is_told_the_nearest(chosen):
    with pytest.raises(InputError, match=r"unknown split 'trian': did you mean train\?"):
        load_fashion_mnist("trian")


@pytest.mark.parametrize("limit", [0, -1, 7, 2.0, "3", True, float("nan")])
def test_a_limit_out_of_range_is_refused_with_the_range(chosen, limit):
    with pytest.raises(InputError, match=r"limit .* is not a whole number in 1 … 6"):
        load_fashion_mnist("train", limit)


def test_wrong_arguments_are_refused_before_anything_is_fetched(contents, tmp_path, monkeypatch):
    asked = use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    with pytest.raises(InputError):
        load_fashion_mnist("train", limit=7)
    assert asked == []


# --- the file format


def test_an_idx_file_is_read_in_row_order():
    assert_close(parse_idx(idx(np.arange(24).reshape(2, 3, 4)), 3), torch.arange(24).reshape(2, 3, 4).to(torch.uint8))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (idx(np.zeros(5)), "starts with 0x00000801"),  # labels where images are expected
        (b"\x89PNG" + bytes(100), "starts with 0x89504e47"),
        (b"\0\0\x0d\3" + bytes(100), "starts with 0x00000d03"),  # an IDX file of floats
        (b"", "starts with 0x$"),
        (idx(np.zeros((2, 3, 4)))[:-1], r"shape \[2, 3, 4\] has 40 bytes, not 39"),
        (idx(np.zeros((2, 3, 4))) + b"\0", r"shape \[2, 3, 4\] has 40 bytes, not 41"),
        (b"\0\0\x08\3\0\0", "bytes, not 6"),  # ends inside the header
    ],
)
def test_what_is_not_an_idx_file_of_images_is_refused(raw, message):
    with pytest.raises(DataError, match=message):
        parse_idx(raw, 3)


# --- damage


def flip_a_byte(raw: bytes) -> bytes:
    return raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]


def packed(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Change the unpacked contents of the image file."""
    return lambda images, labels: images.write_bytes(gzip.compress(change(gzip.decompress(images.read_bytes()))))


def stored(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Change the bytes of the image file as they lie on the disk."""
    return lambda images, labels: images.write_bytes(change(images.read_bytes()))


def swap(images: Path, labels: Path) -> None:
    images_bytes = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(images_bytes)


def replace_by_folder(images: Path, labels: Path) -> None:
    images.unlink()
    images.mkdir()


DAMAGE = {
    "missing file": (lambda images, labels: images.unlink(), "is missing"),
    "truncated gz": (stored(lambda gz: gz[: len(gz) // 2]), "cannot be unpacked: .*ended before"),
    "cut in the gz trailer": (stored(lambda gz: gz[:-3]), "cannot be unpacked"),
    "flipped byte in the gz": (stored(flip_a_byte), "cannot be unpacked|unpacks to"),
    "not a gz": (stored(lambda gz: b"<html>404 Not Found</html>"), "cannot be unpacked: Not a gzipped file"),
    "empty file": (stored(lambda gz: b""), "unpacks to 0 other bytes"),
    "bytes after the gz": (stored(lambda gz: gz + b"more"), "cannot be unpacked"),
    "one bit flipped in a pixel": (packed(flip_a_byte), "unpacks to 4,720 other bytes"),
    "wrong magic number": (packed(lambda raw: b"\0\0\x08\1" + raw[4:]), "unpacks to 4,720 other bytes"),
    "a pixel short": (packed(lambda raw: raw[:-1]), "unpacks to 4,719 other bytes"),
    "a pixel long": (packed(lambda raw: raw + b"\0"), "unpacks to 4,721 other bytes"),
    "labels and images swapped": (swap, f"unpacks to those of {LABELS}"),
    "a folder instead of the file": (replace_by_folder, "cannot be unpacked: .*directory"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("call", [load_fashion_mnist, find_fashion_mnist])
def test_damage_to_the_chosen_folder_is_one_error_that_says_what_and_what_to_do(chosen, kind, call):
    damage, problem = DAMAGE[kind]
    damage(chosen / f"{IMAGES}.gz", chosen / f"{LABELS}.gz")
    with pytest.raises(DataError, match=f"{IMAGES}.gz ({problem})") as caught:
        call()
    for part in (f"FASHION_MNIST_DIR, {chosen}", "only it was tried", "`ddpm data`"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "a folder instead of the file"])
def test_damage_to_the_cache_is_repaired_from_a_source_and_said(contents, tmp_path, monkeypatch, caplog, kind):
    asked = use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    folder = find_fashion_mnist()
    damage, _ = DAMAGE[kind]
    damage(folder / f"{IMAGES}.gz", folder / f"{LABELS}.gz")
    with caplog.at_level(logging.WARNING):
        assert len(load_fashion_mnist("train").images) == 6
    assert asked == ["source", "source"]
    assert f"the project's cache, {folder}: {IMAGES}.gz" in caplog.text
    assert "fetched from source" in caplog.text


def test_a_damaged_unpacked_file_in_the_cache_gives_way_to_a_good_packed_one(contents, tmp_path, monkeypatch):
    put(tmp_path / "cache" / "fashion-mnist", {name: raw + b"\0" for name, raw in contents.items()}, packed=False)
    use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    assert sorted(os.listdir(find_fashion_mnist())) == sorted(f"{name}.gz" for name in contents)


def test_a_damaged_packed_file_in_the_cache_gives_way_to_a_good_unpacked_one(contents, tmp_path, monkeypatch):
    put(tmp_path / "cache" / "fashion-mnist", {name: raw + b"\0" for name, raw in contents.items()})
    use_sources(monkeypatch, source=put(tmp_path / "source", contents, packed=False))
    assert sorted(os.listdir(find_fashion_mnist())) == sorted(contents)


def test_every_bad_file_is_named_at_once(chosen):
    (chosen / f"{IMAGES}.gz").unlink()
    (chosen / f"{LABELS}.gz").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz is missing; {LABELS}\.gz unpacks to 0"):
        find_fashion_mnist()


# --- where it is looked for


@pytest.mark.parametrize(("name", "problem"), [("nowhere", "no such folder"), ("file", "not a folder")])
def test_a_chosen_folder_that_is_none_is_an_error_and_never_a_silent_fallback(
    contents, tmp_path, monkeypatch, name, problem
):
    (tmp_path / "file").touch()
    put(tmp_path / "cache" / "fashion-mnist", contents)
    asked = use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / name))
    with pytest.raises(DataError, match=f"FASHION_MNIST_DIR, .*{name}: {problem}"):
        load_fashion_mnist()
    assert asked == []


def test_an_empty_variable_counts_as_unset(contents, tmp_path, monkeypatch):
    put(tmp_path / "cache" / "fashion-mnist", contents)
    monkeypatch.setenv("FASHION_MNIST_DIR", "")
    assert find_fashion_mnist() == tmp_path / "cache" / "fashion-mnist"


def test_the_chosen_folder_comes_first_and_is_not_copied(chosen, tmp_path):
    assert find_fashion_mnist() == chosen
    assert not (tmp_path / "cache" / "fashion-mnist").exists()


def test_the_sources_are_asked_in_order_until_one_is_good_and_then_never_again(contents, tmp_path, monkeypatch):
    bad = put(tmp_path / "bad", {name: raw + b"\0" for name, raw in contents.items()})
    asked = use_sources(
        monkeypatch,
        offline=DataError("no route to host"),
        full=OSError(28, "No space left on device"),
        bad=bad,
        good=put(tmp_path / "good", contents),
        spare=put(tmp_path / "spare", contents),
    )
    for _ in range(2):
        assert find_fashion_mnist() == tmp_path / "cache" / "fashion-mnist"
    assert asked == ["offline", "full", "bad", "good"]
    assert sorted(os.listdir(tmp_path / "cache")) == ["fashion-mnist", "fashion-mnist.lock"]


def test_if_nothing_helps_the_error_lists_every_attempt_in_order_and_the_remedy(contents, tmp_path, monkeypatch):
    use_sources(monkeypatch, first=DataError("no route to host"), second=tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        load_fashion_mnist()
    _, cache, first, second, remedy = str(caught.value).splitlines()
    assert cache == f"  - the project's cache, {tmp_path / 'cache' / 'fashion-mnist'}: no such folder"
    assert first == "  - first: no route to host"
    assert second == "  - second: no such folder"
    assert all(word in remedy for word in ("`ddpm data`", "FASHION_MNIST_DIR", f"{IMAGES}.gz"))


def test_a_file_in_the_place_of_the_cached_folder_is_an_error_that_names_it(contents, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "fashion-mnist").touch()
    use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    with pytest.raises(DataError, match="cache/fashion-mnist: not a folder"):
        load_fashion_mnist()


def test_what_a_killed_fetch_left_behind_does_no_harm(contents, tmp_path, monkeypatch):
    put(tmp_path / "cache" / "fashion-mnist.tmp", {IMAGES: b"half"})
    put(tmp_path / "cache" / "fashion-mnist", {LABELS: contents[LABELS]})
    use_sources(monkeypatch, source=put(tmp_path / "source", contents))
    assert len(load_fashion_mnist("test").images) == 4
    assert sorted(os.listdir(tmp_path / "cache")) == ["fashion-mnist", "fashion-mnist.lock"]


FETCHER = """
import json, sys, time
from pathlib import Path
from ddpm_lib import data, data_files

source, log, checksums = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def slow(staging):
    with log.open("a") as file:
        file.write("fetched\\n")
    time.sleep(0.5)
    return source

data_files.CHECKSUMS = checksums
data_files.SOURCES = (("slow", slow),)
print("ready", flush=True)
sys.stdin.readline()
print(len(data.load_fashion_mnist("train").labels))
"""


def test_two_processes_that_fetch_at_once_fetch_once_and_both_get_it(contents, tmp_path):
    source = put(tmp_path / "source", contents)
    arguments = [str(source), str(tmp_path / "log"), json.dumps(data_files.CHECKSUMS)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCHER, *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both have imported torch: now they start within milliseconds of each other
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["6\n", "6\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"
    assert sorted(os.listdir(tmp_path / "cache")) == ["fashion-mnist", "fashion-mnist.lock"]


# --- the real sources, with servers and programs of our own in the place of the real ones


def test_the_sources_are_torchvision_then_debians_package_installed_then_downloaded():
    labels = [label for label, _ in data_files.SOURCES]
    assert ["torchvision" in labels[0], "installed" in labels[1], "apt-get" in labels[2]] == [True] * 3
    assert len(labels) == 3


@pytest.fixture
def mirror(contents, tmp_path, monkeypatch) -> Path:
    """torchvision downloads from a server in this process that serves the folder returned."""
    from torchvision.datasets import FashionMNIST

    folder = put(tmp_path / "mirror", contents)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(FashionMNIST, "resources", list(md5.items()))
    monkeypatch.setattr(data_files, "SOURCES", (("torchvision", data_files._fetch_torchvision),))
    yield folder
    server.shutdown()
    server.server_close()


def test_torchvisions_download_fills_the_cache(mirror, contents, tmp_path):
    assert len(load_fashion_mnist("train").images) == 6
    assert sorted(os.listdir(tmp_path / "cache" / "fashion-mnist")) == sorted(f"{name}.gz" for name in contents)


def test_a_mirror_without_the_file_is_reported(mirror):
    (mirror / f"{IMAGES}.gz").unlink()
    with pytest.raises(DataError, match=r"torchvision: .*404"):
        load_fashion_mnist("train")


def test_a_mirror_with_an_altered_file_is_reported(mirror):
    with (mirror / f"{IMAGES}.gz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"torchvision: .*corrupted"):
        load_fashion_mnist("train")


def test_a_server_that_never_answers_is_given_up_on(contents, monkeypatch):
    from torchvision.datasets import FashionMNIST

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        monkeypatch.setattr(data_files, "SOURCES", (("torchvision", data_files._fetch_torchvision),))
        monkeypatch.setattr(data_files, "NETWORK_TIMEOUT", 0.2)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"torchvision: .*timed out"):
            load_fashion_mnist()
    assert time.monotonic() - start < 10
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def debian(contents, tmp_path, monkeypatch) -> Path:
    """apt-get and dpkg are scripts of ours: apt-get has no lists before `update`, dpkg unpacks a folder."""
    programs = tmp_path / "programs"
    installed = put(tmp_path / "package" / "usr/share/datasets/fashion-mnist", contents)
    scripts = {
        "apt-get": f"""
            echo "$@" >> {tmp_path}/calls
            case "$*" in
                *update) touch {tmp_path}/lists ;;
                *download*) test -e {tmp_path}/lists || {{ echo 'E: Unable to locate package' >&2; exit 100; }}
                            touch fashion.deb ;;
            esac""",
        "dpkg": f'test "$1" = -x && test -e "$2" && cp -r {tmp_path}/package/usr "$3"',
    }
    programs.mkdir()
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(data_files, "SOURCES", (("apt-get", data_files._fetch_debian_download),))
    return installed


def calls(tmp_path: Path) -> list[str]:
    return [
        "update" if line.endswith("update") else "download" for line in (tmp_path / "calls").read_text().splitlines()
    ]


def test_apt_get_fills_the_cache(debian, tmp_path):
    (tmp_path / "lists").touch()
    assert len(load_fashion_mnist("train").images) == 6
    assert calls(tmp_path) == ["download"]


def test_root_without_package_lists_updates_them_once(debian, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert len(load_fashion_mnist("train").images) == 6
    assert calls(tmp_path) == ["download", "update", "download"]


def test_a_user_without_package_lists_is_told_what_to_run(debian, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DataError, match=r"apt-get: .*Unable to locate package.*sudo apt-get update"):
        load_fashion_mnist("train")
    assert calls(tmp_path) == ["download"]


def test_a_command_that_hangs_is_given_up_on(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "COMMAND_TIMEOUT", 0.2)
    with pytest.raises(DataError, match=r"`sleep 60` did not end within 0\.2 s"):
        data_files._run(["sleep", "60"], tmp_path)


def test_a_machine_without_apt_says_so(debian, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get and dpkg are not both on this machine"):
        load_fashion_mnist("train")


# --- the real data


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_real_data_is_whole_balanced_and_scaled(split, count):
    images, labels = load_fashion_mnist(split)
    assert images.shape == (count, 1, 28, 28)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert_close(images, (images * 127.5 + 127.5).round() / 127.5 - 1)
    assert labels.bincount().tolist() == [count // len(CLASS_NAMES)] * len(CLASS_NAMES)
