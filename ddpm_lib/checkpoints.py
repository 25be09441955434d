"""Weights and whole training states on disk: safetensors, written atomically, each carrying its own hash. And results,
as JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm_lib.errors import CheckpointError
from ddpm_lib.files import atomic_write

T = TypeVar("T")


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, and over the metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Writes named tensors and JSON-like metadata to one file, atomically, and returns their hash.

    A kill or a full disk leaves the file that was there before, whole.

    Raises:
        DDPMError: the disk is full.
    """
    # Copies in the plain layout: safetensors takes neither channels_last strides nor shared memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    digest = content_hash(plain, metadata)
    atomic_write(Path(path), save(plain, {"metadata": json.dumps(metadata, sort_keys=True), "sha256": digest}))
    return digest


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote, after checking the hash.

    Raises:
        CheckpointError: the file is missing, torn, altered, or was not written by `save_tensors`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is torn or not a safetensors file ({error}); delete it or take an older one"
        ) from error
    if not {"metadata", "sha256"} <= header.keys():
        raise CheckpointError(f"{path} is a safetensors file, but not one of this course: it carries no hash")
    try:
        metadata = json.loads(header["metadata"])
    except ValueError as error:
        raise CheckpointError(
            f"{path} has unreadable metadata; it was altered: delete it or take an older one"
        ) from error
    if content_hash(tensors, metadata) != header["sha256"]:
        raise CheckpointError(f"{path} does not match its own hash; it was altered: delete it or take an older one")
    return tensors, metadata


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies tensors into a model whose names and shapes must be exactly theirs.

    Args:
        model: filled in place; half-precision tensors are widened to its dtype.
        tensors: name -> value, as in `model.state_dict()`.
        source: where they come from, for the error.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{source} does not fit this network: missing {missing[:3]}, unknown {unknown[:3]}, reshaped {wrong[:3]};"
            " was it trained with another `conditional`?"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def write_lines(path: str | Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Writes results as JSON lines, atomically."""
    atomic_write(Path(path), "".join(json.dumps(value) + "\n" for value in values).encode())


def read_lines(path: str | Path, build: Callable[[dict[str, Any]], T]) -> list[T]:
    """Reads what `write_lines` wrote, each line through `build`. Raises CheckpointError if that fails."""
    try:
        return [build(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it, and it is made again") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under "prefix.name": several groups share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def group(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `with_prefix(prefix, …)` put in, under their own names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
