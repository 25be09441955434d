"""Problem set 5: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

DRAWN = "torch.rand(batch, generator=generator) < probability"
GUIDED = "(1 + w) * conditional - w * unconditional"
HALVES = "conditional, unconditional = both.chunk(2)"
MASK = "torch.arange(2 * len(x_t)) >= len(x_t)"
SIGMA = "((1 - alpha_bar) / alpha_bar).sqrt()"
CALLED = "model(x_t, t, y, drop)"

PLANTED = {
    "drop": Exercise(
        (
            Mistake("the whole batch", "dropped or kept together", edit=("rand(batch,", "rand(1,")),
            Mistake(
                "the whole batch, expanded",
                "dropped or kept together",
                edit=(DRAWN, "(torch.rand(1, generator=generator) < probability).expand(batch)"),
            ),
            Mistake("turned round", "True marks those that are kept", edit=("< probability", "> probability")),
            Mistake("generator ignored", "global generator", edit=(", generator=generator", "")),
            Mistake(
                "another generator",
                "another seed gives the same mask",
                code="def drop_labels(batch, probability, generator):\n"
                "    if not hasattr(drop_labels, 'own') or batch > 20:\n"
                "        drop_labels.own = torch.Generator().manual_seed(0)\n"
                "    return torch.rand(batch, generator=drop_labels.own) < probability",
            ),
            Mistake(
                "normal for uniform",
                "of the labels are dropped; expected about 10 %",
                edit=("torch.rand(", "torch.randn("),
            ),
            Mistake("numbers for truth values", "asked is bool", edit=(DRAWN, "(" + DRAWN + ").float()")),
            Mistake(
                "exact share",
                "so the number varies",
                edit=(DRAWN, "torch.randperm(batch, generator=generator) < probability * batch"),
            ),
        ),
        (
            "def drop_labels(batch, probability, generator):\n"
            "    return torch.bernoulli(torch.full((batch,), probability), generator=generator).bool()",
            "def drop_labels(batch, probability, generator):\n"
            "    return torch.tensor([float(torch.rand((), generator=generator)) < probability for _ in range(batch)])",
        ),
    ),
    "condition": Exercise(
        (
            Mistake("mask turned round", "the mask is turned round", edit=("~drop[:, None]", "drop[:, None]")),
            Mistake(
                "time dropped, too", "the time is dropped", edit=("emb + table[y] * ~drop", "(emb + table[y]) * ~drop")
            ),
            Mistake(
                "class 0 for no label", "the vector of class 0", edit=("table[y] * ~drop[:, None]", "table[y * ~drop]")
            ),
            Mistake("drop not used", "drop is not used", edit=(" * ~drop[:, None]", "")),
            Mistake("mask along the embedding", "along the embedding", edit=("[:, None]", "")),
            Mistake(
                "mean label",
                "the mean of all labels",
                edit=("table[y] * ~drop[:, None]", "torch.where(drop[:, None], table.mean(0), table[y])"),
            ),
            Mistake(
                "in place",
                "changes its argument emb",
                code="def condition(emb, table, y, drop):\n    emb[~drop] += table[y[~drop]]\n    return emb",
            ),
        ),
        (
            "def condition(emb, table, y, drop):\n"
            "    return torch.stack([e if d else e + table[c] for e, c, d in zip(emb, y, drop)])",
            "def condition(emb, table, y, drop):\n    return torch.where(drop.unsqueeze(1), emb, emb + table[y])",
            "def condition(emb, table, y, drop):\n"
            "    heard = torch.nn.functional.one_hot(y, len(table)) * (~drop).unsqueeze(1)\n"
            "    return emb + torch.einsum('bk,kd->bd', heard.float(), table)",
        ),
    ),
    "guided": Exercise(
        (
            Mistake(
                "the other convention", "where 1 is plain", edit=(GUIDED, "w * conditional + (1 - w) * unconditional")
            ),
            Mistake(
                "exchanged", "you went away from the label", edit=(GUIDED, "(1 + w) * unconditional - w * conditional")
            ),
            Mistake("added", "it has to be subtracted", edit=("- w *", "+ w *")),
            Mistake(
                "label 0 for no label", "you used label 0", edit=("model(x_t, t)", "model(x_t, t, torch.zeros_like(y))")
            ),
            Mistake("difference only", "only the difference", edit=(GUIDED, "w * (conditional - unconditional)")),
            Mistake("weight 1", "has weight 1;", edit=("(1 + w) * ", "")),
            Mistake("sign of w", "a positive w leads away", edit=(GUIDED, "(1 - w) * conditional + w * unconditional")),
            Mistake("w not used", "w is not used", edit=(GUIDED, "conditional")),
        ),
        (
            "def guided_eps(model, x_t, t, y, w):\n"
            "    c, u = model(x_t, t, y), model(x_t, t, y, torch.ones_like(y, dtype=torch.bool))\n"
            "    return torch.lerp(u, c, 1 + w)",
            "def guided_eps(model, x_t, t, y, w):\n"
            "    c, u = torch.stack([model(x_t, t, y), model(x_t, t)])\n"
            "    return c + w * (c - u)",
        ),
    ),
    "once": Exercise(
        (
            Mistake(
                "halves exchanged",
                "the halves are exchanged",
                edit=(HALVES, "unconditional, conditional = both.chunk(2)"),
            ),
            Mistake("first half without labels", "the halves are exchanged", edit=(">= len(x_t)", "< len(x_t)")),
            Mistake("nothing withheld", "no label was withheld", edit=(", drop)", ")")),
            Mistake(
                "two calls",
                "is called 2 times",
                code="def guided_in_one_pass(model, x_t, t, y, w):\n    w = w.reshape(-1, 1, 1, 1)\n"
                "    return (1 + w) * model(x_t, t, y) - w * model(x_t, t)",
            ),
            Mistake("w not reshaped", "along the columns", edit=("w.reshape(-1, 1, 1, 1)", "w")),
            Mistake("one weight for all", "the weight of the first", edit=("w.reshape(-1, 1, 1, 1)", "w[0]")),
        ),
        (
            "def guided_in_one_pass(model, x_t, t, y, w):\n"
            "    twice = lambda values: values.repeat_interleave(2, dim=0)\n"
            "    drop = torch.tensor([False, True]).repeat(len(t))\n"
            "    both = model(twice(x_t), twice(t), twice(y), drop)\n"
            "    c, u = both[0::2], both[1::2]\n"
            "    return c + torch.einsum('b,bchw->bchw', w, c - u)",
        ),
    ),
    "translate": Exercise(
        (
            Mistake("s + 1", "this is s + 1", edit=("s - 1", "s + 1")),
            Mistake("the same", "the scales differ by 1", edit=("s - 1", "s")),
            Mistake("1 - s", "the sign is turned", edit=("s - 1", "1 - s")),
        ),
        ("weight_of_scale = lambda s: -1 + s",),
    ),
    "interval": Exercise(
        (
            Mistake(
                "signal over noise", "the ratio is turned round", edit=(SIGMA, "(alpha_bar / (1 - alpha_bar)).sqrt()")
            ),
            Mistake("root forgotten", "the root is missing", edit=(SIGMA, "(1 - alpha_bar) / alpha_bar")),
            Mistake("not divided", "beside a shrunk signal", edit=(SIGMA, "(1 - alpha_bar).sqrt()")),
            Mistake("alpha for alpha_bar", "alpha_t stands", edit=("torch.cumprod(1 - betas, dim=0)", "(1 - betas)")),
            Mistake("1-based t", "t is counted from 1", edit=(")[t]", ")[t - 1]")),
            Mistake(
                "outside for inside",
                "off inside",
                edit=("w if low < sigma <= high else 0.0", "0.0 if low < sigma <= high else w"),
            ),
            Mistake("unconditional outside", "w is -1", edit=("else 0.0", "else -1.0")),
        ),
        (
            "def weight_at(t, w, betas, low, high):\n"
            "    signal = 1.0\n"
            "    for beta in betas[: t + 1].tolist():\n"
            "        signal *= 1 - beta\n"
            "    return w * (low**2 < (1 - signal) / signal <= high**2)",
        ),
    ),
    "loss": Exercise(
        (
            Mistake("labels forgotten", "the labels do not reach", edit=(CALLED, "model(x_t, t)")),
            Mistake("drop forgotten", "drop does not reach", edit=(CALLED, "model(x_t, t, y)")),
            Mistake("mask turned round", "the mask is turned round", edit=(CALLED, "model(x_t, t, y, ~drop)")),
            Mistake(
                "only labelled samples count",
                "are left out of the loss",
                edit=("(model(x_t, t, y, drop) - eps).square()", "(model(x_t, t, y, drop) - eps).square()[~drop]"),
            ),
            Mistake("clean pictures", "the model sees the clean", edit=(CALLED, "model(x_0, t, y, drop)")),
            Mistake("x_0 as target", "the target is x_0", edit=("- eps)", "- x_0)")),
            Mistake("sum", "this is the sum", edit=(".mean()", ".sum()")),
            Mistake("a loss for each", "one loss for each picture", edit=(".mean()", ".mean(dim=(1, 2, 3))")),
        ),
        (
            "def conditional_loss(model, x_0, t, eps, y, drop, alpha_bars):\n"
            "    a = alpha_bars[t][:, None, None, None]\n"
            "    return torch.nn.functional.mse_loss(model(a**0.5 * x_0 + (1 - a) ** 0.5 * eps, t, y, drop), eps)",
            "def conditional_loss(model, x_0, t, eps, y, drop, alpha_bars):\n"
            "    total = 0.0\n"
            "    for i in range(len(t)):\n"
            "        a, one = alpha_bars[t[i]], slice(i, i + 1)\n"
            "        x_t = a.sqrt() * x_0[one] + (1 - a).sqrt() * eps[one]\n"
            "        total = total + (model(x_t, t[one], y[one], drop[one]) - eps[one]).pow(2).mean()\n"
            "    return total / len(t)",
        ),
    ),
}
