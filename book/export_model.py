"""Writes the shipped model for the page that runs it in the browser: `python book/export_model.py FOLDER`.

model.onnx is `guided_eps` of eight pictures, as the library computes it: both predictions in one forward pass, and the
mixture; only what does not depend on the label, and so is the same in both, is computed once. model.json holds what the
page needs besides: the schedule, the classes, where the weights come from, and some values of one prediction, by which
the page sees whether its device computes what PyTorch does.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ddpm_lib import pretrained
from ddpm_lib.data import CLASS_NAMES
from ddpm_lib.guidance import guided_eps
from ddpm_lib.unet import UNet

MODEL = "cfg_ema"
PICTURES = 8
OPSET = 20  # the first with GELU as one operation


class Once(nn.Module):
    """Part of a network whose input has two equal halves: it takes the first one, and repeats its answer."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        half = self.part(x[: len(x) // 2])
        return torch.cat([half, half])


class Guided(nn.Module):
    """The guided prediction as a module: what the exporter takes."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        # Up to where the label comes in, the predictions with it and without it are the same.
        self.network.inc = Once(self.network.inc)
        self.network.down1.pool = Once(self.network.down1.pool)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor, guidance_weight: Tensor) -> Tensor:
        return guided_eps(self.network, x_t, t, y, guidance_weight)


def traced(network: UNet) -> onnx.ModelProto:
    """The guided prediction as an ONNX graph for exactly `PICTURES` pictures, each with its own weight w."""
    example = (
        torch.zeros(PICTURES, 1, 28, 28),
        torch.zeros(PICTURES, dtype=torch.int64),
        torch.zeros(PICTURES, dtype=torch.int64),
        torch.ones(PICTURES),
    )
    names = ["x_t", "t", "y", "guidance_weight"]
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The tracer warns of every check of the input: they pass once, here, and are not in the graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Guided(network), example, file, dynamo=False, opset_version=OPSET, input_names=names, output_names=["eps"]
        )
    return onnx.load_from_string(file.getvalue())


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores weights in half precision wherever that loses nothing, which is how they are shipped.

    The graph casts them back; the runtime does so once, when it loads the model.
    """
    weights, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16) if values.dtype == np.float32 else values
        if half.dtype == values.dtype or not np.array_equal(half, values):
            weights.append(tensor)
            continue
        weights.append(numpy_helper.from_array(half, f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    for field, content in ((model.graph.initializer, weights), (model.graph.node, nodes)):
        del field[:]
        field.extend(content)
    onnx.checker.check_model(model)
    return model


def known_answer(network: UNet) -> dict[str, float | list[float]]:
    """Every `stride`-th value of the guided prediction for eight pictures of pure noise, drawn from `seed`."""
    seed, t, label, weight, stride = 0, 500, 9, 2.0, 97
    noise = torch.randn(PICTURES, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        eps = guided_eps(network, noise, torch.full((PICTURES,), t), torch.full((PICTURES,), label), weight)
    values = [round(value, 5) for value in eps.flatten()[::stride].tolist()]
    return {"seed": seed, "t": t, "label": label, "weight": weight, "stride": stride, "eps": values}


def main(folder: Path) -> None:
    """Writes model.onnx and model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = pretrained.epochs(MODEL)[-1]
    network = pretrained.load(MODEL, epoch)
    description = {
        "model": MODEL,
        "epoch": epoch,
        "fingerprint": pretrained.fingerprint(MODEL, epoch),
        "pictures": PICTURES,
        "classes": list(CLASS_NAMES),
        "alpha_bars": pretrained.schedule(MODEL).alpha_bars.tolist(),
        "known": known_answer(network),
    }
    (folder / "model.onnx").write_bytes(halved(traced(network)).SerializeToString())
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
