"""Problem set 2: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

RATIO = "(1 - f[1:] / f[:-1]).clamp(max=0.999)"
LAMBDA = "torch.log(alpha_bars / (1 - alpha_bars))"
FREQUENCIES = "10000.0 ** (-2 * torch.arange(d // 2) / d)"
JOINED = "torch.cat([angles.sin(), angles.cos()], dim=1)"
PICKED = "values[t].reshape(-1, 1, 1, 1)"

PLANTED = {
    "linear": Exercise(
        (
            Mistake("divided by N", "divide by N - 1", edit=("/ (N - 1)", "/ N")),
            Mistake("i from 1", "i runs from 1", edit=("i / (N - 1)", "(i + 1) / N")),
            Mistake(
                "scaled linear",
                "a straight line in sqrt(beta)",
                code="def linear_betas(N, beta_init, beta_end):\n"
                "    return torch.linspace(beta_init**0.5, beta_end**0.5, N, dtype=torch.float64) ** 2",
            ),
            Mistake("start forgotten", "beta_init is missing", edit=("beta_init + i", "i")),
            Mistake("up by beta_end", "goes up by beta_end;", edit=("(beta_end - beta_init)", "beta_end")),
            Mistake("in float32", "asked is float64", edit=("dtype=torch.float64", "dtype=torch.float32")),
        ),
        (
            "def linear_betas(N, beta_init, beta_end):\n"
            "    return torch.linspace(beta_init, beta_end, N, dtype=torch.float64)",
            "def linear_betas(N, beta_init, beta_end):\n"
            "    step = (beta_end - beta_init) / (N - 1)\n"
            "    return torch.tensor([beta_init + i * step for i in range(N)], dtype=torch.float64)",
        ),
    ),
    "cosine": Exercise(
        (
            Mistake("not cut, so that NaN follows", "the last beta is 1", edit=(".clamp(max=0.999)", "")),
            Mistake("square forgotten", "the square of the cosine", edit=(" ** 2", "")),
            Mistake("offset forgotten", "the offset s is missing", edit=("(u + s) / (1 + s)", "u")),
            Mistake("alpha_bar for beta", "you returned alpha_bar_t", edit=(RATIO, "f[1:] / f[0]")),
            Mistake("ratio turned round", "the ratio is turned round", edit=("f[1:] / f[:-1]", "f[:-1] / f[1:]")),
            Mistake("alpha for beta", "you returned alpha_t", edit=("1 - f[1:] / f[:-1]", "f[1:] / f[:-1]")),
            Mistake("in float32", "asked is float64", edit=("dtype=torch.float64", "dtype=torch.float32")),
            Mistake("s is fixed", "betas for s = 0.05", edit=("(u + s) / (1 + s)", "(u + 0.008) / 1.008")),
        ),
        (
            "def cosine_betas(T, s=0.008):\n"
            "    f = lambda u: math.cos((u + s) / (1 + s) * math.pi / 2) ** 2\n"
            "    betas = [min(1 - f((t + 1) / T) / f(t / T), 0.999) for t in range(T)]\n"
            "    return torch.tensor(betas, dtype=torch.float64)",
        ),
    ),
    "log-snr": Exercise(
        (
            Mistake("alpha for alpha_bar", "alpha_t stands", edit=("torch.cumprod(1 - betas, dim=0)", "1 - betas")),
            Mistake("base 10", "to base 10", edit=("torch.log(", "torch.log10(")),
            Mistake("half of it", "this is half of it", edit=(LAMBDA, "0.5 * " + LAMBDA)),
            Mistake("noise over signal", "the sign is turned", edit=(LAMBDA, "-" + LAMBDA)),
            Mistake("no logarithm", "the logarithm is missing", edit=("torch.log(", "(")),
            Mistake("noise forgotten", "log(alpha_bar_t) alone", edit=(" / (1 - alpha_bars)", "")),
        ),
        (
            "def log_snr(betas):\n    return torch.logit(torch.cumprod(1 - betas, 0))",
            "def log_snr(betas):\n"
            "    log_bars = torch.log1p(-betas).cumsum(0)\n"
            "    return log_bars - torch.log(-torch.expm1(log_bars))",
        ),
    ),
    "betas-from": Exercise(
        (
            Mistake(
                "index -1 wraps around",
                "you divided by alpha_bars[-1]",
                code="def betas_from(alpha_bars):\n    return 1 - alpha_bars / alpha_bars.roll(1)",
            ),
            Mistake(
                "first one lost",
                "the first beta is missing",
                edit=("alpha_bars / previous", "alpha_bars[1:] / alpha_bars[:-1]"),
            ),
            Mistake("alphas", "you returned the alphas", edit=("1 - alpha_bars / previous", "alpha_bars / previous")),
            Mistake(
                "turned round", "the ratio is turned round", edit=("alpha_bars / previous", "previous / alpha_bars")
            ),
            Mistake(
                "difference",
                "the difference of neighbours",
                edit=("1 - alpha_bars / previous", "previous - alpha_bars"),
            ),
            Mistake("all the noise", "all the noise so far", edit=("alpha_bars / previous", "alpha_bars")),
        ),
        (
            "def betas_from(alpha_bars):\n"
            "    betas, previous = [], 1.0\n"
            "    for bar in alpha_bars:\n"
            "        betas.append(1 - bar / previous)\n"
            "        previous = bar\n"
            "    return torch.stack(betas)",
        ),
    ),
    "extract": Exercise(
        (
            Mistake("shape [B]", "the shape is [B];", edit=(".reshape(-1, 1, 1, 1)", "")),
            Mistake("shape [B, 1, 1]", "the channel needs", edit=("-1, 1, 1, 1", "-1, 1, 1")),
            Mistake("along the channels", "along the channels", edit=("-1, 1, 1, 1", "1, -1, 1, 1")),
            Mistake("1-based t", "counted from 1", edit=("values[t]", "values[t - 1]")),
            Mistake("one t for all", "the number of the first", edit=(PICKED, "values[t[0]].expand(len(t), 1, 1, 1)")),
            Mistake("first values", "the first B values", edit=("values[t]", "values[: len(t)]")),
            Mistake("dtype kept", "would become float64", edit=(".to(images.dtype)", "")),
        ),
        (
            "def extract(values, t, images):\n    return values.to(images.dtype).gather(0, t)[:, None, None, None]",
            "def extract(values, t, images):\n"
            "    return torch.stack([values[k].to(images.dtype).reshape(1, 1, 1) for k in t.tolist()])",
        ),
    ),
    "embedding": Exercise(
        (
            Mistake(
                "interleaved", "alternate", edit=(JOINED, "torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)")
            ),
            Mistake(
                "cosines first",
                "the cosines come first",
                edit=(JOINED, "torch.cat([angles.cos(), angles.sin()], dim=1)"),
            ),
            Mistake(
                "d/2 - 1",
                "divided by d/2 - 1",
                edit=("-2 * torch.arange(d // 2) / d", "-torch.arange(d // 2) / (d // 2 - 1)"),
            ),
            Mistake("factor 2 forgotten", "the factor 2", edit=("-2 * ", "-1 * ")),
            Mistake("frequencies grow", "the frequencies grow", edit=("(-2 *", "(2 *")),
            Mistake("stacked", "are stacked", edit=(JOINED, "torch.stack([angles.sin(), angles.cos()], dim=1)")),
            Mistake("in float64", "works in float32", edit=("t.float()", "t.double()")),
        ),
        (
            "def embed(t, d):\n"
            "    rows = []\n"
            "    for time in t.tolist():\n"
            "        angles = [time / 10000 ** (2 * i / d) for i in range(d // 2)]\n"
            "        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])\n"
            "    return torch.tensor(rows)",
            "def embed(t, d):\n"
            "    angles = torch.einsum('b,i->bi', t.float(), torch.exp(-math.log(10000) * torch.arange(0, d, 2) / d))\n"
            "    return torch.hstack([angles.sin(), angles.cos()])",
        ),
    ),
    "rotation": Exercise(
        (
            Mistake(
                "transposed",
                "R turns them back",
                edit=("[c, s], dim=1), torch.cat([-s, c]", "[c, -s], dim=1), torch.cat([s, c]"),
            ),
            Mistake("sign of the sine", "which should be e(8)", edit=("[-s, c]", "[s, c]")),
            Mistake(
                "for alternating numbers",
                "numbers that alternate",
                code="def rotation(k, d):\n"
                "    angles = k * 10000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)\n"
                "    return torch.block_diag(*[torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]], dtype=a.dtype)"
                " for a in angles])",
            ),
            Mistake("nothing turns", "nothing had to turn", edit=("angles = k *", "angles = 0 *")),
        ),
        (
            "def rotation(k, d):\n"
            "    R, half = torch.zeros(d, d, dtype=torch.float64), d // 2\n"
            "    for i in range(half):\n"
            "        a = k / 10000 ** (2 * i / d)\n"
            "        R[i, i] = R[i + half, i + half] = math.cos(a)\n"
            "        R[i, i + half], R[i + half, i] = math.sin(a), -math.sin(a)\n"
            "    return R",
        ),
    ),
}
