"""Checkpoints come back bit by bit; whatever happened to a file is noticed, and a kill leaves the old one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import python
from torch import Tensor
from torch.testing import assert_close

from ddpm_lib import files
from ddpm_lib.checkpoints import content_hash, group, load_tensors, load_weights, save_tensors, with_prefix
from ddpm_lib.errors import CheckpointError, DDPMError
from ddpm_lib.unet import UNet

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "count": torch.tensor(7, dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
}
METADATA = {"kind": "test", "config": {"lr": 3e-4, "conditional": True}, "scaler": None, "steps": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    save_tensors(path, TENSORS, METADATA)
    return path


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)


# --- there and back


def test_tensors_and_metadata_come_back_as_they_were(path):
    tensors, metadata = load_tensors(path)
    assert_equal(tensors, TENSORS)
    assert metadata == METADATA


def test_other_programs_can_read_the_file(path):
    assert_equal(load_file(path), TENSORS)


def test_every_memory_layout_can_be_saved(tmp_path):
    shared = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    tensors = {
        "a": shared,
        "b": shared,  # the same memory under two names
        "part": shared[:, 1:],
        "turned": shared.transpose(2, 3),
        "channels_last": shared.to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(shared),
    }
    save_tensors(tmp_path / "x", tensors, {})
    assert_equal(load_tensors(str(tmp_path / "x"))[0], {name: tensor.detach() for name, tensor in tensors.items()})


def test_saving_changes_nothing_in_memory(tmp_path):
    model = UNet().to(memory_format=torch.channels_last)
    strides = [p.stride() for p in model.parameters()]
    save_tensors(tmp_path / "x", model.state_dict(), {})
    assert [p.stride() for p in model.parameters()] == strides


def test_the_hash_is_of_the_content(path, tmp_path):
    digest = content_hash(TENSORS, METADATA)
    assert save_tensors(tmp_path / "elsewhere", dict(reversed(TENSORS.items())), METADATA) == digest
    same_bytes = {**TENSORS, "weight": TENSORS["weight"].reshape(3, 2)}
    same_values = {**TENSORS, "count": TENSORS["count"].int()}
    renamed = {("Weight" if name == "weight" else name): tensor for name, tensor in TENSORS.items()}
    changed = {**TENSORS, "weight": TENSORS["weight"].nextafter(torch.tensor(9.0))}
    for other in (same_bytes, same_values, renamed, changed):
        assert content_hash(other, METADATA) != digest
    assert content_hash(TENSORS, {**METADATA, "steps": [1, 3]}) != digest


def test_groups_share_a_file_and_part_again():
    first, second = {"a": TENSORS["weight"]}, {"a": TENSORS["half"], "b.c": TENSORS["mask"]}
    both = with_prefix("optimizer.1", first) | with_prefix("optimizer.10", second)
    assert_equal(group("optimizer.1", both), first)
    assert_equal(group("optimizer.10", both), second)
    assert group("optimizer", {}) == {}


# --- damage


def refused(path: Path) -> str:
    """The message with which the file is refused; it must name the file."""
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_flipped_bit_anywhere_is_noticed(path):
    whole = path.read_bytes()
    for position in range(len(whole)):
        torn = bytearray(whole)
        torn[position] ^= 1 << random.Random(position).randrange(8)
        path.write_bytes(torn)
        refused(path)


def test_a_lost_byte_anywhere_is_noticed(path):
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + whole[position + 1 :])
        refused(path)


def test_a_file_cut_short_anywhere_or_continued_is_noticed(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        assert "delete it or take an older one" in refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


def test_an_altered_weight_with_intact_format_is_noticed(path):
    tensors, header = load_file(path), json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")["__metadata__"]
    tensors["weight"][0, 0] += 1e-7
    save_file(tensors, path, header)
    assert "does not match its own hash" in refused(path)


def test_altered_metadata_is_noticed(path):
    tensors, digest = load_file(path), content_hash(TENSORS, METADATA)
    save_file(tensors, path, {"metadata": json.dumps({**METADATA, "kind": "other"}), "sha256": digest})
    assert "does not match its own hash" in refused(path)
    save_file(tensors, path, {"metadata": "{kind", "sha256": digest})
    assert "unreadable metadata" in refused(path)


def test_a_foreign_safetensors_file_is_refused(path):
    for header in (None, {"format": "pt"}, {"sha256": content_hash(TENSORS, METADATA)}):
        save_file(TENSORS, path, header)
        assert "not one of this course" in refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"\x80\x04K\x01.", bytes(100), b"\xff" * 100, b"PK\x03\x04" + bytes(50)],
    ids=["empty", "text", "a pickle", "zeros", "ones", "a zip file"],
)
def test_a_file_of_another_kind_is_refused(path, content):
    path.write_bytes(content)
    assert "torn or not a safetensors file" in refused(path)


def test_a_missing_file_is_named(tmp_path):
    assert "there is no checkpoint" in refused(tmp_path / "nowhere.safetensors")
    assert "there is no checkpoint" in refused(tmp_path)  # a folder


# --- into a network


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return UNet().state_dict()


def test_weights_fill_a_network(weights):
    model = UNet()
    load_weights(model, weights, "a file")
    assert_equal(model.state_dict(), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_widened(weights, dtype):
    model = UNet()
    load_weights(model, {name: value.to(dtype) for name, value in weights.items()}, "a file")
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert_close(value, weights[name].to(dtype).float(), rtol=0, atol=0)


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {other: value for other, value in weights.items() if other != name}


def test_weights_for_another_network_are_refused_and_the_network_stays_as_it_was(weights):
    label, bias = "label_embedding.weight", "outc.bias"
    cases = [
        (UNet(), without(weights, label), ["missing ['label_embedding.weight']", "conditional"]),
        (UNet(num_classes=None), weights, ["unknown ['label_embedding.weight']"]),
        (UNet(), {**weights, bias: torch.zeros(2)}, ["reshaped ['outc.bias']"]),
        (UNet(num_classes=12), weights, ["reshaped ['label_embedding.weight']"]),
        (UNet(), {}, ["missing [", "unknown []"]),
    ]
    for model, tensors, words in cases:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, tensors, "weights/step_000004.safetensors")
        for word in ["weights/step_000004.safetensors does not fit", *words]:
            assert word in str(caught.value)
        assert_equal(model.state_dict(), before)


# --- kills and full disks, in the middle of a write


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_error_inside_a_write_leaves_the_old_file(path, monkeypatch, moment):
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, moment, fail)
    with pytest.raises(OSError, match="Input/output error"):
        save_tensors(path, {"weight": torch.zeros(9)}, {})
    monkeypatch.undo()
    assert_equal(load_tensors(path)[0], TENSORS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DDPMError, match=r"state\.safetensors cannot be written: no space left.*unchanged"):
        save_tensors(path, {"weight": torch.zeros(9)}, {})
    monkeypatch.undo()
    assert_equal(load_tensors(path)[0], TENSORS)


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    # Children of one process, which has PyTorch loaded, save 4 MB after 4 MB as fast as they can until they are killed.
    script = """if True:
        import os, sys
        import torch
        from ddpm_lib.checkpoints import save_tensors
        while line := sys.stdin.readline():
            if (child := os.fork()) == 0:
                for number in range(2000):  # half a minute at most, should nobody kill it
                    save_tensors(sys.argv[1], {"weight": torch.full((10**6,), float(number))}, {"number": number})
            print(child, flush=True)
            os.waitpid(child, 0)
        """
    path, moments = tmp_path / "state.safetensors", random.Random(0)
    seen = set()
    with python(script, path) as parent:
        for _ in range(8):
            print(file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            while not path.exists():
                time.sleep(0.005)
            time.sleep(moments.uniform(0.02, 0.2))
            os.kill(child, signal.SIGKILL)
            tensors, metadata = load_tensors(path)
            assert_equal(tensors, {"weight": torch.full((10**6,), float(metadata["number"]))})
            seen.add(metadata["number"])
        parent.stdin.close()
        assert parent.wait(timeout=30) == 0
    assert len(seen) > 1
