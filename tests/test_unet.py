"""The UNet is the report's, layer by layer; its attention is PyTorch's; labels and skips go where they should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import refused
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.unet import ConvBlock, DownSample, SelfAttention, UNet, UpSample, leaf_modules


def seeded(build, *arguments, **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments, **options)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet() -> UNet:
    return seeded(UNet).requires_grad_(False)


X, T = noise(3, 1, 28, 28), torch.tensor([0, 500, 999])
Y = torch.tensor([0, 9, 4])
ROUNDING = {"rtol": 0, "atol": 5e-5}  # of a whole float32 network, summed in another order


# --- the listing


def test_listing_is_the_reports(unet):
    listing = leaf_modules(unet)
    # Newer releases of PyTorch print one word more in norm layers.
    listing = re.sub(r"^((?:Group|Layer)Norm\(.*), bias=True\)$", r"\1)", listing, flags=re.MULTILINE)
    assert listing.splitlines() == (Path(__file__).with_name("unet_layers.txt")).read_text().splitlines()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_count_is_the_reports(unet):
    assert count(unet) == 1_141_681


def test_the_unconditional_network_lacks_the_label_embedding_and_nothing_else(unet):
    unconditional = UNet(num_classes=None)
    assert unet.state_dict().keys() - unconditional.state_dict().keys() == {"label_embedding.weight"}
    assert count(unconditional) == 1_141_681 - 10 * 128


def test_every_parameter_is_used(unet):
    model = seeded(UNet)
    model(X, T, Y).square().mean().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # A shift of all keys alike cancels in the softmax, so a third of the attentions' input bias has no gradient;
    # the rest of that same parameter has one.
    assert unused == []


# --- attention


@pytest.mark.parametrize(("channels", "head_width"), [(16, 16), (16, 4), (32, 16), (64, 16), (64, 8), (128, 2)])
def test_attention_equals_pytorchs_multihead_attention(channels, head_width):
    attention = seeded(SelfAttention, channels, head_width)
    nn.init.normal_(attention.mha.in_proj_bias, generator=torch.Generator().manual_seed(1))  # PyTorch begins with 0
    nn.init.normal_(attention.mha.out_proj.bias, generator=torch.Generator().manual_seed(2))
    tokens = noise(2, 49, channels)
    theirs, _ = attention.mha(tokens, tokens, tokens)
    assert attention.mha.num_heads == channels // head_width
    assert_close(attention.attend(tokens), theirs)


def test_self_attention_is_two_residual_steps_over_the_pixels():
    attention = seeded(SelfAttention, 32, 16)
    x = noise(2, 32, 7, 7)
    tokens = torch.stack([x[:, :, i // 7, i % 7] for i in range(49)], dim=1)  # [B, 49, 32], row by row
    normed = attention.ln(tokens)
    tokens = tokens + attention.mha(normed, normed, normed)[0]
    tokens = tokens + attention.ff_self(tokens)
    out = attention(x)
    for i in range(49):
        assert_close(out[:, :, i // 7, i % 7], tokens[:, i])


def test_heads_do_not_change_the_parameters(unet):
    four_wide = seeded(UNet, head_width=4)
    assert unet.state_dict().keys() == four_wide.state_dict().keys()
    for name, value in four_wide.state_dict().items():
        assert_close(value, unet.state_dict()[name], rtol=0, atol=0)
    # They change what is computed, though: weights trained with one head width are for that head width.
    assert not torch.allclose(unet(X, T), four_wide(X, T))


def test_attention_stays_in_float32_under_bf16_autocast_on_a_cpu(monkeypatch):
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q.dtype, torch.is_autocast_enabled("cpu")))
        return attend(q, k, v)

    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attention = seeded(SelfAttention, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.attend(noise(1, 49, 16)).dtype == torch.bfloat16  # the matrix products around it are mixed
    assert seen == [(torch.float32, False)]


# --- blocks


def test_the_residual_block_is_gelu_of_the_sum():
    block = seeded(ConvBlock, 8, 8, residual=True)
    x = noise(2, 8, 14, 14)
    assert_close(block(x), F.gelu(x + block.block(x)))


def test_the_plain_block_ends_with_the_norm():
    out = seeded(ConvBlock, 1, 8)(noise(2, 1, 14, 14))
    assert_close(out.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(out.var(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("block", ["down", "up"])
def test_the_embedding_is_added_to_whole_channels(block):
    module = seeded(DownSample, 8, 16, 32) if block == "down" else seeded(UpSample, 16, 4, 32)
    inputs = [noise(2, 8, 14, 14)] + ([noise(2, 8, 28, 28, seed=1)] if block == "up" else [])
    a, b = noise(2, 32, seed=2), noise(2, 32, seed=3)
    difference = module(*inputs, a) - module(*inputs, b)
    layer = module.emb_layer[1]
    expected = layer(F.silu(a)) - layer(F.silu(b))
    assert_close(difference, expected[:, :, None, None].expand_as(difference), rtol=1e-4, atol=1e-5)


def test_skip_connection_comes_first():
    up = seeded(UpSample, 6, 4, 32)
    seen = []
    up.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, skip = noise(2, 4, 7, 7), noise(2, 2, 14, 14, seed=1)
    up(x, skip, noise(2, 32))
    assert_close(seen[0][:, :2], skip, rtol=0, atol=0)
    assert_close(seen[0][:, 2:], F.interpolate(x, scale_factor=2, mode="bilinear"), rtol=0, atol=0)


def test_the_path_through_the_network_is_the_reports():
    unet = seeded(UNet)
    inputs, outputs = {}, {}

    def record(name: str, given: tuple[Tensor, ...], out: Tensor) -> None:
        inputs[name], outputs[name] = given, out

    for name, child in unet.named_children():
        child.register_forward_hook(lambda _, given, out, name=name: record(name, given, out))
    unet(X, T, Y)
    sources = {  # child: where its pictures come from, and its output's shape
        "down1": (["inc"], (64, 14, 14)),
        "sa1": (["down1"], (64, 14, 14)),
        "down2": (["sa1"], (128, 7, 7)),
        "sa2": (["down2"], (128, 7, 7)),
        "bot1": (["sa2"], (64, 7, 7)),
        "up1": (["bot1", "sa1"], (32, 14, 14)),
        "sa3": (["up1"], (32, 14, 14)),
        "up2": (["sa3", "inc"], (16, 28, 28)),
        "sa4": (["up2"], (16, 28, 28)),
        "outc": (["sa4"], (1, 28, 28)),
    }
    assert outputs["inc"].shape == (3, 32, 28, 28)
    for name, (origins, shape) in sources.items():
        assert outputs[name].shape == (3, *shape)
        for given, origin in zip(inputs[name], origins, strict=False):
            assert_close(given, outputs[origin], rtol=0, atol=0)
    emb = timestep_embedding(T) + unet.label_embedding.weight[Y]
    for name in ("down1", "down2", "up1", "up2"):
        assert_close(inputs[name][-1], emb, rtol=0, atol=0)


# --- labels


def test_the_null_label_adds_nothing(unet):
    silent = seeded(UNet)
    nn.init.zeros_(silent.label_embedding.weight)
    assert_close(unet(X, T), silent(X, T, Y), rtol=0, atol=0)


def test_a_dropped_label_is_no_label_and_the_others_keep_theirs(unet):
    drop = torch.tensor([True, False, True])
    with torch.no_grad():
        mixed, without, labelled = unet(X, T, Y, drop), unet(X, T), unet(X, T, Y)
    assert_close(mixed[drop], without[drop], **ROUNDING)
    assert_close(mixed[~drop], labelled[~drop], **ROUNDING)
    assert float((without - labelled).abs().max()) > 1e-2  # the label does say something


def test_every_label_gives_another_prediction(unet):
    predictions = unet(X[:1].expand(10, -1, -1, -1), T[1:2].expand(10), torch.arange(10)).flatten(1)
    assert float((torch.cdist(predictions, predictions) + 9 * torch.eye(10)).min()) > 1e-2


def test_time_matters(unet):
    predictions = unet(X[:1].expand(3, -1, -1, -1), T).flatten(1)
    assert float((torch.cdist(predictions, predictions) + 9 * torch.eye(3)).min()) > 1e-2


def test_samples_of_a_batch_do_not_see_each_other(unet):
    together = unet(X, T, Y)
    for i in range(3):
        assert_close(together[i : i + 1], unet(X[i : i + 1], T[i : i + 1], Y[i : i + 1]), **ROUNDING)


def test_the_memory_format_changes_no_value(unet):
    contiguous = seeded(UNet).to(memory_format=torch.contiguous_format)
    assert_close(unet(X, T, Y), contiguous(X, T, Y), **ROUNDING)


@pytest.mark.parametrize("size", [0, 1])
def test_small_batches_pass(unet, size):
    assert unet(X[:size], T[:size], Y[:size]).shape == (size, 1, 28, 28)


BAD = {
    "x_t 32x32": (lambda u: u(torch.zeros(3, 1, 32, 32), T), ["[3, 1, 32, 32]", "[B, 1, 28, 28]"]),
    "x_t in colour": (lambda u: u(torch.zeros(3, 3, 28, 28), T), ["[3, 3, 28, 28]", "[B, 1, 28, 28]"]),
    "x_t without a batch": (lambda u: u(torch.zeros(1, 28, 28), T), ["[1, 28, 28]", "[B, 1, 28, 28]"]),
    "x_t bytes": (lambda u: u(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), T), ["torch.uint8", "float"]),
    "t for another batch": (lambda u: u(X, T[:2]), ["t has shape [2]", "batch of 3"]),
    "t one number": (lambda u: u(X, torch.tensor(3)), ["t has shape []", "[B]"]),
    "label 10": (lambda u: u(X, T, torch.tensor([0, 10, 3])), ["label 10", "0 … 9"]),
    "label -1": (lambda u: u(X, T, torch.tensor([0, -1, 3])), ["label -1", "0 … 9"]),
    "labels floats": (lambda u: u(X, T, Y.float()), ["torch.float32 [3]", "int64 [3]"]),
    "labels uint8": (lambda u: u(X, T, Y.byte()), ["torch.uint8 [3]", "int64 [3]"]),
    "labels one-hot": (lambda u: u(X, T, F.one_hot(Y, 10)), ["[3, 10]", "int64 [3]"]),
    "labels too few": (lambda u: u(X, T, Y[:2]), ["[2]", "int64 [3]"]),
    "labels to the unconditional": (lambda u: UNet(num_classes=None)(X, T, Y), ["unconditional", "num_classes=10"]),
    "drop of numbers": (lambda u: u(X, T, Y, torch.zeros(3)), ["drop is torch.float32", "bool [3]"]),
    "drop too short": (lambda u: u(X, T, Y, torch.zeros(2, dtype=torch.bool)), ["[2]", "bool [3]"]),
    "drop without labels": (lambda u: u(X, T, None, torch.zeros(3, dtype=torch.bool)), ["y is None"]),
    "head width 5": (lambda u: UNet(head_width=5), ["head_width is 5", "divide 16"]),
    "head width 0": (lambda u: UNet(head_width=0), ["head_width is 0", "divide 16"]),
    "head width 32": (lambda u: UNet(head_width=32), ["head_width is 32", "divide 16"]),
    "no classes": (lambda u: UNet(num_classes=0), ["num_classes is 0", "at least 1"]),
    "odd embedding": (lambda u: UNet(emb_dim=127), ["emb_dim is 127", "even"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(unet, call, words):
    with refused(words):
        call(unet)
