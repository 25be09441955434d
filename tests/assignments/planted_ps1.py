"""Problem set 1: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

PLANTED = {
    "one-step": Exercise(
        (
            Mistake("signal without root", "is alpha_t", edit=("(1 - beta).sqrt()", "(1 - beta)")),
            Mistake("noise without root", "is beta_t", edit=("beta.sqrt() * z", "beta * z")),
            Mistake("the picture does not shrink", "is 1; expected sqrt(alpha_t)", edit=("(1 - beta).sqrt() * x", "x")),
            Mistake(
                "weights exchanged",
                "the weight of x_{t-1} is sqrt(beta_t)",
                code="def one_step(x, beta, z): return beta.sqrt() * x + (1 - beta).sqrt() * z",
            ),
            Mistake(
                "noise drawn afresh",
                "draws from PyTorch's global generator",
                edit=("beta.sqrt() * z", "beta.sqrt() * torch.randn_like(x)"),
            ),
            Mistake(
                "changes its argument",
                "changes its argument x in place",
                code="def one_step(x, beta, z): return x.mul_((1 - beta).sqrt()).add_(beta.sqrt() * z)",
            ),
            Mistake("no return", "returns None", edit=("return", "result =")),
        ),
        (
            "def one_step(x, beta, z):\n    return torch.sqrt(1 - beta) * x + torch.sqrt(beta) * z",
            "def one_step(x, beta, z):\n"
            "    a, b = float(1 - beta) ** 0.5, float(beta) ** 0.5\n"
            "    return torch.stack([a * one + b * noise for one, noise in zip(x, z)])",
        ),
    ),
    "alpha-bars": Exercise(
        (
            Mistake(
                "alpha for alpha_bar", "you returned alpha_t", edit=("torch.cumprod(1 - betas, dim=0)", "1 - betas")
            ),
            Mistake("cumsum for cumprod", "you returned the sum", edit=("cumprod", "cumsum")),
            Mistake("product of the betas", "product of the betas", edit=("1 - betas", "betas")),
            Mistake("the noise's share", "1 - alpha_bar_t", edit=("return ", "return 1 - ")),
            Mistake(
                "shifted by one",
                "you returned alpha_bar_{t-1}",
                edit=(
                    "torch.cumprod(1 - betas, dim=0)",
                    "torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)[:-1]])",
                ),
            ),
            Mistake(
                "the clean picture in front",
                "expected T values",
                edit=("torch.cumprod(1 - betas, dim=0)", "torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])"),
            ),
            Mistake(
                "exp(-sum)", "an approximation", edit=("torch.cumprod(1 - betas, dim=0)", "(-betas.cumsum(0)).exp()")
            ),
            Mistake("in float32", "the precision is kept", edit=("1 - betas", "1 - betas.float()")),
        ),
        (
            "def cumulative(betas):\n"
            "    result, product = [], 1.0\n"
            "    for beta in betas:\n"
            "        product = product * (1 - beta)\n"
            "        result.append(product)\n"
            "    return torch.stack(result)",
            "def cumulative(betas):\n    return torch.log1p(-betas).cumsum(0).exp()",
        ),
    ),
    "q-sample": Exercise(
        (
            Mistake(
                "alpha for alpha_bar",
                "is sqrt(alpha_t) = 0.8367; expected sqrt(alpha_bar_t)",
                edit=("torch.cumprod(1 - betas, dim=0)", "1 - betas"),
            ),
            Mistake("signal without root", "is alpha_bar_t", edit=("alpha_bar.sqrt() * x_0", "alpha_bar * x_0")),
            Mistake("noise without root", "is 1 - alpha_bar_t", edit=("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")),
            Mistake("1-based t", "is sqrt(alpha_bar_{t-1})", edit=("alpha_bars[t]", "alpha_bars[t - 1]")),
            Mistake("1 - root", "1 - sqrt(alpha_bar_t)", edit=("(1 - alpha_bar).sqrt()", "(1 - alpha_bar.sqrt())")),
            Mistake("one t for the batch", "the time of the first one", edit=("alpha_bars[t]", "alpha_bars[t[0]]")),
            Mistake("not reshaped", "along the columns", edit=(".reshape(-1, 1, 1, 1)", "")),
            Mistake("reshaped to [B, 1]", "along the rows", edit=("-1, 1, 1, 1", "-1, 1")),
            Mistake("float64 spreads", "float64 has spread", edit=(".to(x_0.dtype)", "")),
            Mistake("noise drawn afresh", "global generator", edit=("* eps", "* torch.randn_like(x_0)")),
            Mistake(
                "the library does it",
                "calls q_sample of ddpm_lib.diffusion",
                code="from ddpm_lib.diffusion import q_sample as theirs\n"
                "from ddpm_lib.schedules import Schedule\n"
                "_schedule = Schedule(BETAS)\n"
                "def q_sample(x_0, t, eps, betas): return theirs(x_0, t, eps, _schedule)",
            ),
        ),
        (
            "def q_sample(x_0, t, eps, betas):\n"
            "    pictures = []\n"
            "    for x, k, e in zip(x_0, t.tolist(), eps):\n"
            "        bar = float(torch.prod(1 - betas[: k + 1]))\n"
            "        pictures.append(bar**0.5 * x + (1 - bar) ** 0.5 * e)\n"
            "    return torch.stack(pictures)",
            "def q_sample(x_0, t, eps, betas):\n"
            "    bars = torch.cumprod(1 - betas, 0)[t].to(x_0.dtype)\n"
            "    return torch.einsum('b,bchw->bchw', bars**0.5, x_0)"
            " + torch.einsum('b,b...->b...', (1 - bars) ** 0.5, eps)",
        ),
    ),
    "predict-x0": Exercise(
        (
            Mistake("not divided", "the picture is still shrunk", edit=(" / alpha_bar.sqrt()", "")),
            Mistake("divided by alpha_bar", "divided by alpha_bar_t", edit=("/ alpha_bar.sqrt()", "/ alpha_bar")),
            Mistake("noise added", "the noise is added", edit=("x_t - (1", "x_t + (1")),
            Mistake("noise with weight 1", "with weight 1;", edit=("(1 - alpha_bar).sqrt() * eps", "eps")),
            Mistake("noise without root", "its square root", edit=("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")),
            Mistake(
                "brackets forgotten",
                "only x_t is divided",
                edit=(
                    "(x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()",
                    "x_t / alpha_bar.sqrt() - (1 - alpha_bar).sqrt() * eps",
                ),
            ),
            Mistake(
                "alpha for alpha_bar", "alpha_t stands where", edit=("torch.cumprod(1 - betas, dim=0)", "1 - betas")
            ),
            Mistake(
                "clipped",
                "it is clipped",
                edit=(
                    "return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()",
                    "return ((x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()).clamp(-1, 1)",
                ),
            ),
        ),
        (
            "def predict_x_0(x_t, t, eps, betas):\n"
            "    bars = torch.cumprod(1 - betas, 0)\n"
            "    return torch.stack([((x - (1 - b).sqrt() * e) / b.sqrt()).to(x.dtype)"
            " for x, b, e in zip(x_t, bars[t], eps)])",
        ),
    ),
    "posterior": Exercise(
        (
            Mistake(
                "index -1 wraps around",
                "(index -1 is the last element)",
                edit=("alpha_bars[t - 1] if t > 0 else torch.ones((), dtype=betas.dtype)", "alpha_bars[t - 1]"),
            ),
            Mistake(
                "beta for the posterior variance",
                "the variance is beta_t",
                edit=("variance = betas[t] * (1 - previous) / (1 - alpha_bars[t])", "variance = betas[t]"),
            ),
            Mistake(
                "standard deviation for variance",
                "sqrt(the posterior variance)",
                edit=("+ weight_x_t * x_t, variance", "+ weight_x_t * x_t, variance.sqrt()"),
            ),
            Mistake(
                "weights exchanged",
                "the two are exchanged",
                edit=("weight_x_0 * x_0 + weight_x_t * x_t", "weight_x_t * x_0 + weight_x_0 * x_t"),
            ),
            Mistake(
                "root of alpha_bar_{t-1} missing", "the root of alpha_bar_{t-1}", edit=("previous.sqrt()", "previous")
            ),
            Mistake("root of alpha_t missing", "the root of alpha_t", edit=("(1 - betas[t]).sqrt()", "(1 - betas[t])")),
            Mistake(
                "alpha_bar under the root",
                "alpha_bar_t stands under the root",
                edit=("(1 - betas[t]).sqrt()", "alpha_bars[t].sqrt()"),
            ),
            Mistake(
                "alpha_bar_t for alpha_bar_{t-1}",
                "alpha_bar_t stands where alpha_bar_{t-1}",
                edit=("previous.sqrt()", "alpha_bars[t].sqrt()"),
            ),
        ),
        (
            "def posterior(x_0, x_t, t, betas):\n"
            "    # Bayes: precisions add.\n"
            "    bars = torch.cat([torch.ones(1, dtype=betas.dtype), torch.cumprod(1 - betas, 0)])\n"
            "    if t == 0:\n"
            "        return x_0 + 0 * x_t, torch.tensor(0.0)\n"
            "    likelihood, prior = (1 - betas[t]) / betas[t], 1 / (1 - bars[t])\n"
            "    variance = 1 / (likelihood + prior)\n"
            "    mean = variance * (likelihood * x_t / (1 - betas[t]).sqrt() + prior * bars[t].sqrt() * x_0)\n"
            "    return mean, variance",
        ),
    ),
    "correlation": Exercise(
        (
            Mistake("root missing", "the root is missing", edit=(").sqrt()", ")")),
            Mistake(
                "sizes forgotten",
                "in units of its own size",
                edit=("(kept * (1 - alpha_bars[s]) / (1 - alpha_bars[t]))", "kept"),
            ),
            Mistake(
                "sizes the wrong way round",
                "the wrong way round",
                edit=("(1 - alpha_bars[s]) / (1 - alpha_bars[t])", "(1 - alpha_bars[t]) / (1 - alpha_bars[s])"),
            ),
            Mistake("shrinking forgotten", "the chain also shrinks", edit=("kept * (1", "(1")),
            Mistake(
                "ratio turned round",
                "is turned round",
                edit=("alpha_bars[t] / alpha_bars[s]", "alpha_bars[s] / alpha_bars[t]"),
            ),
        ),
        (
            "def noise_correlation(s, t, betas):\n"
            "    r = 1.0\n"
            "    bar = float(torch.prod(1 - betas[: s + 1]))\n"
            "    for beta in betas[s + 1 : t + 1].tolist():\n"
            "        new = bar * (1 - beta)\n"
            "        r *= ((1 - beta) * (1 - bar) / (1 - new)) ** 0.5\n"
            "        bar = new\n"
            "    return r",
        ),
    ),
    "drowned": Exercise(
        (
            Mistake(
                "counted from 1", "t is counted from 1", edit=("int(below.nonzero()[0])", "int(below.nonzero()[0]) + 1")
            ),
            Mistake("last above", "1 is too early", edit=("int(below.nonzero()[0])", "int(below.nonzero()[0]) - 1")),
            Mistake(
                "variance forgotten", "variance of the data is not used", edit=("alpha_bars * variance", "alpha_bars")
            ),
            Mistake("standard deviation", "the standard deviation stands", edit=("* variance", "* variance**0.5")),
            Mistake(
                "noise forgotten",
                "compared with the level; divide",
                code="def first_drowned(betas, variance, level):\n"
                "    below = torch.cumprod(1 - betas, 0) * variance < level\n"
                "    return int(below.nonzero()[0]) if below.any() else None",
            ),
            Mistake(
                "never None",
                "expected None",
                edit=("int(below.nonzero()[0]) if bool(below.any()) else None", "int(below.int().argmax())"),
            ),
        ),
        (
            "def first_drowned(betas, variance, level):\n"
            "    bar = 1.0\n"
            "    for t, beta in enumerate(betas.tolist()):\n"
            "        bar *= 1 - beta\n"
            "        if bar * variance / (1 - bar) < level:\n"
            "            return t\n"
            "    return None",
        ),
    ),
}
