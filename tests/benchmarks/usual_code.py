"""The network as teaching code usually has it: four heads, `nn.MultiheadAttention`, plain memory layout, fp32.

Written for the benchmark, with the report's layers and so the same 1,141,681 parameters as ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.unet import UNet


class UsualAttention(nn.Module):
    """Attention through the module as it comes, weights returned and thrown away."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(channels, 4, batch_first=True)
        self.ln = nn.LayerNorm([channels])
        self.ff_self = nn.Sequential(
            nn.LayerNorm([channels]), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x.flatten(2).swapaxes(1, 2)
        x_ln = self.ln(x)
        attention_value, _ = self.mha(x_ln, x_ln, x_ln)
        attention_value = attention_value + x
        attention_value = self.ff_self(attention_value) + attention_value
        return attention_value.swapaxes(2, 1).unflatten(2, size)


def usual_unet() -> nn.Module:
    """The report's network with that attention, in PyTorch's default layout."""
    model = UsualUNet(num_classes=None)
    for name, channels in (("sa1", 64), ("sa2", 128), ("sa3", 32), ("sa4", 16)):
        setattr(model, name, UsualAttention(channels))
    return model.to(memory_format=torch.contiguous_format)


class UsualUNet(UNet):
    """Our wiring, without labels and without the switch to channels_last."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        emb = timestep_embedding(t, self.emb_dim)
        x1 = self.inc(x_t)
        x2 = self.sa1(self.down1(x1, emb))
        x3 = self.sa2(self.down2(x2, emb))
        x = self.sa3(self.up1(self.bot1(x3), x2, emb))
        return self.outc(self.sa4(self.up2(x, x1, emb)))
