"""The report's UNet: 28x28 grey images, 1,141,681 parameters; what its listing shows, and nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.errors import InputError


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with one group of normalisation each: `[B, c_in, h, w]` -> `[B, c_out, h, w]`.

    With `residual`, the block computes a correction to its input: GELU(x + block(x)); then c_in = c_out.
    """

    def __init__(self, c_in: int, c_out: int, c_mid: int | None = None, residual: bool = False) -> None:
        super().__init__()
        c_mid = c_mid or c_out
        self.residual = residual
        self.block = nn.Sequential(
            nn.Conv2d(c_in, c_mid, 3, padding=1),
            nn.GroupNorm(1, c_mid),
            nn.GELU(),
            nn.Conv2d(c_mid, c_out, 3, padding=1),
            nn.GroupNorm(1, c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.block(x)) if self.residual else self.block(x)


class DownSample(nn.Module):
    """Halves the picture, changes the channels, adds the embedding: `[B, c_in, h, w]` -> `[B, c_out, h/2, w/2]`."""

    def __init__(self, c_in: int, c_out: int, emb_dim: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.MaxPool2d(2), ConvBlock(c_in, c_in, residual=True), ConvBlock(c_in, c_out))
        self.emb_layer = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, c_out))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.pool(x) + self.emb_layer(emb)[:, :, None, None]


class UpSample(nn.Module):
    """Doubles the picture, joins the skip connection (skip first), adds the embedding.

    `[B, c_in - c_skip, h/2, w/2]` and the skip `[B, c_skip, h, w]` -> `[B, c_out, h, w]`.
    """

    def __init__(self, c_in: int, c_out: int, emb_dim: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2.0, mode="bilinear")
        self.conv = nn.Sequential(ConvBlock(c_in, c_in, residual=True), ConvBlock(c_in, c_out, c_in // 2))
        self.emb_layer = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, c_out))

    def forward(self, x: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        x = torch.cat([skip, self.up(x)], dim=1)
        return self.conv(x) + self.emb_layer(emb)[:, :, None, None]


class SelfAttention(nn.Module):
    """Lets every pixel look at every other: h*w tokens of `channels` numbers. `[B, C, h, w]` -> the same."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        # It only holds the weights: its own forward pass is several times slower on a CPU than `attend` below.
        self.mha = nn.MultiheadAttention(channels, self.heads, batch_first=True)
        self.ln = nn.LayerNorm(channels)
        self.ff_self = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # [B, h*w, C]; no copy when x is channels_last
        tokens = tokens + self.attend(self.ln(tokens))
        tokens = tokens + self.ff_self(tokens)
        return tokens.transpose(1, 2).reshape(b, c, h, w)

    def attend(self, tokens: Tensor) -> Tensor:
        """Multi-head attention, softmax(q k^T / sqrt(head width)) v: `[B, N, C]` -> `[B, N, C]`."""
        b, n, c = tokens.shape
        qkv = F.linear(tokens, self.mha.in_proj_weight, self.mha.in_proj_bias)
        q, k, v = qkv.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)  # each [B, heads, N, width]
        if tokens.device.type == "cpu":
            # float32 always: bf16 attention has a slow backward pass on CPUs, and is less exact.
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.mha.out_proj(out.transpose(1, 2).reshape(b, n, c))


class UNet(nn.Module):
    """eps_theta(x_t, t, y): predicts the noise in x_t.

    Args:
        num_classes: how many labels there are; None builds the unconditional network without a label embedding.
        head_width: channels per attention head; divides 16. No parameter's shape depends on it.
        emb_dim: width of the time and label embeddings; even.

    Raises:
        InputError: a number is outside its range.
    """

    def __init__(self, num_classes: int | None = 10, head_width: int = 16, emb_dim: int = 128) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise InputError(f"num_classes is {num_classes}; it must be at least 1, or None for no label embedding")
        if head_width < 1 or 16 % head_width:
            raise InputError(f"head_width is {head_width}; it must divide 16, the narrowest attention layer")
        if emb_dim < 2 or emb_dim % 2:
            raise InputError(f"emb_dim is {emb_dim}; it must be an even number, at least 2 (half sines, half cosines)")
        self.emb_dim = emb_dim
        self.num_classes = num_classes
        self.inc = ConvBlock(1, 32)
        self.down1 = DownSample(32, 64, emb_dim)
        self.sa1 = SelfAttention(64, head_width)
        self.down2 = DownSample(64, 128, emb_dim)
        self.sa2 = SelfAttention(128, head_width)
        self.bot1 = ConvBlock(128, 64)
        self.up1 = UpSample(128, 32, emb_dim)
        self.sa3 = SelfAttention(32, head_width)
        self.up2 = UpSample(64, 16, emb_dim)
        self.sa4 = SelfAttention(16, head_width)
        self.outc = nn.Conv2d(16, 1, 1)
        if num_classes is not None:
            self.label_embedding = nn.Embedding(num_classes, emb_dim)
        self.to(memory_format=torch.channels_last)  # faster convolutions; no value changes

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """Predicts eps.

        Args:
            x_t: `[B, 1, 28, 28]` noised images.
            t: `[B]` timesteps, 0-based.
            y: `[B]` int64 labels in 0 … num_classes-1; None: the whole batch is unconditional.
            drop: `[B]` bool; True where the label is withheld (no label embedding is added).

        Returns:
            `[B, 1, 28, 28]`, the predicted noise.

        Raises:
            InputError: a shape, dtype or label is wrong.
        """
        self._check(x_t, t, y, drop)
        emb = timestep_embedding(t, self.emb_dim)
        if y is not None:
            label = self.label_embedding(y)
            emb = emb + (label if drop is None else label * ~drop[:, None])

        x_t = x_t.contiguous(memory_format=torch.channels_last)
        x1 = self.inc(x_t)  # [B, 32, 28, 28]
        x2 = self.sa1(self.down1(x1, emb))  # [B, 64, 14, 14]
        x3 = self.sa2(self.down2(x2, emb))  # [B, 128, 7, 7]
        x3 = self.bot1(x3)  # [B, 64, 7, 7]
        x = self.sa3(self.up1(x3, x2, emb))  # [B, 32, 14, 14]
        x = self.sa4(self.up2(x, x1, emb))  # [B, 16, 28, 28]
        return self.outc(x)

    def _check(self, x_t: Tensor, t: Tensor, y: Tensor | None, drop: Tensor | None) -> None:
        if x_t.ndim != 4 or x_t.shape[1:] != (1, 28, 28) or not x_t.is_floating_point():
            raise InputError(f"x_t is {x_t.dtype} {list(x_t.shape)}; the network takes float [B, 1, 28, 28]")
        if t.shape != x_t.shape[:1]:
            raise InputError(f"t has shape {list(t.shape)} for a batch of {len(x_t)}; give one timestep a sample, [B]")
        if y is None:
            if drop is not None:
                raise InputError("drop says which labels to withhold, but y is None; give both or neither")
            return
        if self.num_classes is None:
            raise InputError("this network is unconditional: leave y out, or build UNet(num_classes=10)")
        if y.shape != t.shape or y.dtype not in (torch.int32, torch.int64):
            raise InputError(f"labels are {y.dtype} {list(y.shape)}; they must be int64 [{len(x_t)}]")
        # On a GPU this look would wait for all queued work; the embedding reports a bad index itself there.
        if y.device.type == "cpu" and len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            bad = int(y.min()) if int(y.min()) < 0 else int(y.max())
            raise InputError(f"label {bad} is outside 0 … {self.num_classes - 1}")
        if drop is not None and (drop.shape != t.shape or drop.dtype != torch.bool):
            raise InputError(f"drop is {drop.dtype} {list(drop.shape)}; it must be bool [{len(x_t)}]")


def leaf_modules(model: nn.Module) -> str:
    """The network's listing: each top-level child's name in brackets, then its leaf modules in order, one a line."""
    lines = []
    for name, child in model.named_children():
        lines.append(f"[{name}]")
        lines += [str(module) for module in child.modules() if not list(module.children())]
    return "\n".join(lines)
