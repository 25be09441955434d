"""Problem set 3: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

NORM = "def norm_in_groups(x, groups, gamma, beta):\n"
PARTS = "(grouped - mean) / (variance + 1e-5).sqrt()"
JOINED = "torch.cat([skip, doubled], dim=1)"
CUT = "x.reshape(b, n, heads, c // heads).transpose(1, 2)"

PLANTED = {
    "norm": Exercise(
        (
            Mistake("over the batch", "the whole batch", edit=("dim=2", "dim=(0, 2)")),
            Mistake("groups not used", "groups is not used", edit=("len(x), groups, -1", "len(x), 1, -1")),
            Mistake(
                "each channel alone", "normalised by itself", edit=("len(x), groups, -1", "len(x), len(gamma), -1")
            ),
            Mistake(
                "over the channels only",
                "every pixel is normalised over its channels",
                code=NORM + "    normed = (x - x.mean(1, keepdim=True)) / "
                "(x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()\n"
                "    return gamma[:, None, None] * normed + beta[:, None, None]",
            ),
            Mistake(
                "interleaved",
                "the groups are interleaved",
                code=NORM + "    b, c, h, w = x.shape\n"
                "    parts = x.reshape(b, c // groups, groups, h, w)\n"
                "    mean = parts.mean((1, 3, 4), keepdim=True)\n"
                "    variance = parts.var((1, 3, 4), keepdim=True, correction=0)\n"
                "    normed = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)\n"
                "    return gamma[:, None, None] * normed + beta[:, None, None]",
            ),
            Mistake("divided by n - 1", "correction=0", edit=(", correction=0", "")),
            Mistake("missing root", "the root is missing", edit=("(variance + 1e-5).sqrt()", "(variance + 1e-5)")),
            Mistake(
                "1e-5 outside of the root",
                "under the root",
                edit=("(variance + 1e-5).sqrt()", "(variance.sqrt() + 1e-5)"),
            ),
            Mistake("1e-5 forgotten", "1e-5 is missing", edit=(" + 1e-5", "")),
            Mistake("along the columns", "along the columns", edit=("[:, None, None]", "")),
            Mistake(
                "scale and shift forgotten",
                "are not used",
                edit=("gamma[:, None, None] * normed + beta", "normed + 0 * beta"),
            ),
            Mistake(
                "the library does it",
                "calls group_norm; in this exercise",
                code=NORM + "    return F.group_norm(x, groups, gamma, beta)",
            ),
        ),
        (
            NORM + "    pictures = []\n"
            "    for picture in x:\n"
            "        parts = []\n"
            "        for part in picture.chunk(groups):\n"
            "            centred = part - part.mean()\n"
            "            parts.append(centred / torch.sqrt((centred**2).mean() + 1e-5))\n"
            "        pictures.append(torch.cat(parts) * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1))\n"
            "    return torch.stack(pictures)",
            NORM + "    b, c, h, w = x.shape\n"
            "    parts = x.reshape(b, groups, c // groups, h, w)\n"
            "    variance, mean = torch.var_mean(parts, dim=(2, 3, 4), keepdim=True, correction=0)\n"
            "    normed = ((parts - mean) * torch.rsqrt(variance + 1e-5)).reshape(b, c, h, w)\n"
            "    return torch.einsum('c,bchw->bchw', gamma, normed) + beta.reshape(1, c, 1, 1)",
        ),
    ),
    "residual": Exercise(
        (
            Mistake(
                "GELU of x alone",
                "this is GELU(x) + block(x)",
                edit=("F.gelu(x + correction)", "F.gelu(x) + correction"),
            ),
            Mistake(
                "GELU of the block", "x + GELU(block(x))", edit=("F.gelu(x + correction)", "x + F.gelu(correction)")
            ),
            Mistake("GELU forgotten", "the GELU is missing", edit=("F.gelu(x + correction)", "x + correction")),
            Mistake("x forgotten", "x is missing", edit=("x + correction)", "correction)")),
            Mistake("ReLU", "this is a ReLU", edit=("F.gelu", "F.relu")),
            Mistake("SiLU", "this is SiLU", edit=("F.gelu", "F.silu")),
            Mistake("multiplied", "it is added", edit=("x + correction)", "x * correction)")),
            Mistake(
                "broadcast without a word", "broadcasting has added them", edit=("correction.shape != x.shape", "False")
            ),
            Mistake(
                "only the sizes compared",
                "broadcasting has added them",
                edit=("correction.shape != x.shape", "correction.shape[2:] != x.shape[2:]"),
            ),
            Mistake(
                "in place",
                "changes its argument x in place",
                edit=("F.gelu(x + correction)", "F.gelu(x.add_(correction))"),
            ),
        ),
        (
            "def residual(block, x):\n"
            "    total = block(x) + x\n"
            "    if block(x).shape != x.shape:\n"
            "        raise ValueError\n"
            "    return total * (1 + torch.erf(total / 2**0.5)) / 2",
        ),
    ),
    "embedding": Exercise(
        (
            Mistake(
                "SiLU last", "it comes before", edit=("F.silu(emb) @ weight.T + bias", "F.silu(emb @ weight.T + bias)")
            ),
            Mistake("SiLU forgotten", "SiLU is missing", edit=("F.silu(emb)", "emb")),
            Mistake("GELU", "this is GELU", edit=("F.silu", "F.gelu")),
            Mistake("bias forgotten", "the bias is missing", edit=(" + bias", "")),
            Mistake("weight transposed", "the weight is transposed", edit=("weight.T", "weight")),
            Mistake("not reshaped", "reshape [B, C] to [B, C, 1, 1]", edit=("shift[:, :, None, None]", "shift")),
            Mistake("the first one's for all", "the embedding of the first", edit=("shift[:, :,", "shift[:1, :,")),
            Mistake(
                "the batch's mean",
                "the mean embedding",
                edit=("shift[:, :, None, None]", "shift.mean(0)[:, None, None]"),
            ),
            Mistake("multiplied", "they are added", edit=("h + shift", "h * shift")),
            Mistake(
                "in place",
                "changes its argument h in place",
                edit=("h + shift[:, :, None, None]", "h.add_(shift[:, :, None, None])"),
            ),
        ),
        (
            "def add_embedding(h, emb, weight, bias):\n"
            "    return torch.stack([p + (weight @ F.silu(e) + bias).reshape(-1, 1, 1) for p, e in zip(h, emb)])",
            "def add_embedding(h, emb, weight, bias):\n"
            "    active = emb * torch.sigmoid(emb)\n"
            "    return (h.permute(2, 3, 0, 1) + torch.einsum('cd,bd->bc', weight, active) + bias).permute(2, 3, 0, 1)",
            "def add_embedding(h, emb, weight, bias):\n"
            "    layer = nn.Linear(weight.shape[1], weight.shape[0], device='meta')\n"
            "    out = torch.func.functional_call(layer, {'weight': weight, 'bias': bias}, (F.silu(emb),))\n"
            "    return h + out.unsqueeze(-1).unsqueeze(-1)",
        ),
    ),
    "join": Exercise(
        (
            Mistake("swapped", "x comes first", edit=("[skip, doubled]", "[doubled, skip]")),
            Mistake("nearest", "each pixel is repeated", edit=(', mode="bilinear"', "")),
            Mistake(
                "corners aligned", "the corners are aligned", edit=('"bilinear"', '"bilinear", align_corners=True')
            ),
            Mistake("bicubic", "this is bicubic", edit=("bilinear", "bicubic")),
            Mistake("added", "the skip connection is added", edit=(JOINED, "skip + doubled")),
            Mistake("along the batch", "along the batch", edit=("dim=1", "dim=0")),
            Mistake("along the height", "along the height", edit=("dim=1", "dim=2")),
            Mistake(
                "alternating", "the channels alternate", edit=(JOINED, "torch.stack([skip, doubled], 2).flatten(1, 2)")
            ),
            Mistake("the skip halved", "double x", edit=(JOINED, "torch.cat([F.avg_pool2d(skip, 2), x], 1)")),
            Mistake("no skip", "the skip connection is missing", edit=(JOINED, "doubled")),
        ),
        (
            "def join(x, skip):\n    return torch.hstack([skip, nn.Upsample(size=skip.shape[2:], mode='bilinear')(x)])",
            "def join(x, skip):\n"
            "    out = x.new_empty(len(x), skip.shape[1] + x.shape[1], *skip.shape[2:])\n"
            "    out[:, : skip.shape[1]] = skip\n"
            "    out[:, skip.shape[1] :] = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)\n"
            "    return out",
        ),
    ),
    "tokens": Exercise(
        (
            Mistake(
                "only reshaped",
                "a token mixes pixels",
                edit=("x.flatten(2).transpose(1, 2)", "x.reshape(len(x), -1, x.shape[1])"),
            ),
            Mistake(
                "column after column", "column after column", edit=("x.flatten(2)", "x.transpose(2, 3).flatten(2)")
            ),
            Mistake(
                "channels as tokens", "a token is a channel", edit=("x.flatten(2).transpose(1, 2)", "x.flatten(2)")
            ),
            Mistake(
                "only reshaped back",
                "a channel mixes those of one token",
                edit=("tokens.transpose(1, 2).reshape(len(tokens), -1, h, w)", "tokens.reshape(len(tokens), -1, h, w)"),
            ),
            Mistake("h and w exchanged", "h and w are exchanged", edit=("-1, h, w", "-1, w, h")),
            Mistake(
                "laid out by columns",
                "laid out column after column",
                edit=("-1, h, w)", "-1, w, h).transpose(2, 3)"),
            ),
            Mistake(
                "channels last",
                "the channels are still last",
                edit=("tokens.transpose(1, 2).reshape(len(tokens), -1, h, w)", "tokens.reshape(len(tokens), h, w, -1)"),
            ),
        ),
        (
            "def to_tokens(x):\n"
            "    return torch.stack([x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])], 1)\n"
            "def to_picture(tokens, h, w):\n"
            "    return torch.stack([tokens[:, i * w : i * w + w].mT for i in range(h)], 2)",
            "def to_tokens(x):\n"
            "    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])\n"
            "def to_picture(tokens, h, w):\n"
            "    return tokens.unflatten(1, (h, w)).permute(0, 3, 1, 2)",
        ),
    ),
    "attention": Exercise(
        (
            Mistake("softmax over the queries", "over the queries", edit=("dim=-1", "dim=-2")),
            Mistake("softmax over the batch", "over the batch", edit=("dim=-1", "dim=0")),
            Mistake("not scaled", "not divided by sqrt(d)", edit=(" / q.shape[-1] ** 0.5", "")),
            Mistake("divided by d", "divided by d", edit=(" ** 0.5", "")),
            Mistake("multiplied", "multiplied by sqrt(d)", edit=(" / q", " * q")),
            Mistake("number of tokens", "sqrt(N)", edit=("q.shape[-1]", "q.shape[-2]")),
            Mistake(
                "scaled after the softmax",
                "after the softmax",
                code="def attention(q, k, v):\n    return (q @ k.mT).softmax(-1) / q.shape[-1] ** 0.5 @ v",
            ),
            Mistake(
                "queries and keys exchanged",
                "queries and keys are exchanged",
                edit=("q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)"),
            ),
            Mistake("weights transposed", "the weights are transposed", edit=("dim=-1) @ v", "dim=-1).mT @ v")),
            Mistake("weights only", "these are the weights", edit=(" @ v", "")),
            Mistake("keys for values", "the keys are averaged", edit=("@ v", "@ k")),
            Mistake("no softmax", "the softmax is missing", edit=(".softmax(dim=-1)", "")),
            Mistake(
                "no exp",
                "without exp",
                edit=("scores.softmax(dim=-1)", "(scores / scores.sum(-1, keepdim=True))"),
            ),
            Mistake(
                "exp overflows",
                "exp overflows",
                edit=("scores.softmax(dim=-1)", "(scores.exp() / scores.exp().sum(-1, keepdim=True))"),
            ),
            Mistake(
                "the library does it",
                "calls scaled_dot_product_attention",
                code="def attention(q, k, v):\n    return F.scaled_dot_product_attention(q, k, v)",
            ),
        ),
        (
            "def attention(q, k, v):\n"
            "    scores = torch.einsum('...nd,...md->...nm', q, k) / q.shape[-1] ** 0.5\n"
            "    weights = (scores - scores.amax(-1, keepdim=True)).exp()\n"
            "    return torch.einsum('...nm,...md->...nd', weights / weights.sum(-1, keepdim=True), v)",
            "def attention(q, k, v):\n"
            "    out, (q_, k_, v_) = torch.empty_like(v), (x.flatten(0, -3) for x in (q, k, v))\n"
            "    rows = [[F.softmax(key @ one / len(one) ** 0.5, dim=0) @ value for one in query]\n"
            "            for query, key, value in zip(q_, k_, v_)]\n"
            "    return torch.stack([torch.stack(row) for row in rows]).reshape(v.shape)",
        ),
    ),
    "heads": Exercise(
        (
            Mistake("only reshaped", "some channels of all", edit=(CUT, "x.reshape(b, heads, n, c // heads)")),
            Mistake(
                "dealt out in turn",
                "dealt out in turn",
                edit=(CUT, "x.reshape(b, n, c // heads, heads).permute(0, 3, 1, 2)"),
            ),
            Mistake(
                "heads and width exchanged", "the two are exchanged", edit=("heads, c // heads", "c // heads, heads")
            ),
            Mistake(
                "heads after tokens",
                "the heads come after the tokens",
                edit=("c // heads).transpose(1, 2)", "c // heads)"),
            ),
            Mistake(
                "only reshaped back",
                "a token mixes tokens",
                edit=("x.transpose(1, 2).flatten(2)", "x.reshape(len(x), x.shape[2], -1)"),
            ),
            Mistake(
                "alternating", "numbers alternate", edit=("x.transpose(1, 2).flatten", "x.permute(0, 2, 3, 1).flatten")
            ),
            Mistake("averaged", "the heads are averaged", edit=("x.transpose(1, 2).flatten(2)", "x.mean(1)")),
            Mistake("added", "the heads are added", edit=("x.transpose(1, 2).flatten(2)", "x.sum(1)")),
        ),
        (
            "def split_heads(x, heads):\n"
            "    return torch.stack(x.chunk(heads, dim=-1), dim=1)\n"
            "def merge_heads(x):\n"
            "    return torch.cat(list(x.unbind(1)), dim=-1)",
        ),
    ),
    "parameters": Exercise(
        (
            Mistake(
                "biases forgotten", "two are counted", edit=("9 * c_in * c_mid + c_mid", "9 * c_in * c_mid - c_out")
            ),
            Mistake("norms forgotten", "one is counted", edit=(" + norms", "")),
            Mistake("scales only", "two are counted", edit=("2 * c_mid + 2 * c_out", "c_mid + c_out")),
            Mistake("3 for 9", "has 9 numbers", edit=("9 * ", "3 * ")),
            Mistake("norms without channels", "not two in all", edit=("2 * c_mid + 2 * c_out", "4")),
            Mistake(
                "one kernel a channel",
                "its own kernel for each input channel",
                code="def conv_block_parameters(c_in, c_mid, c_out): return 12 * (c_mid + c_out)",
            ),
            Mistake(
                "c_mid not used",
                "c_mid is not used",
                edit=("first = 9 * c_in", "c_mid = c_out\n    first = 9 * c_in"),
            ),
        ),
        (
            "def conv_block_parameters(c_in, c_mid, c_out):\n"
            "    block = nn.Sequential(\n"
            "        nn.Conv2d(c_in, c_mid, 3), nn.GroupNorm(1, c_mid),\n"
            "        nn.Conv2d(c_mid, c_out, 3), nn.GroupNorm(1, c_out),\n"
            "    )\n"
            "    return sum(p.numel() for p in block.parameters())",
        ),
    ),
}
