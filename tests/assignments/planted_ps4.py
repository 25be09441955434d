"""Problem set 4: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

FLOATS = "pictures.float() / 127.5 - 1"
ROUNDED = "((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)"
TIMES = "torch.randint(0, T, (shape[0],), generator=generator)"
NOISE = "torch.randn(shape, generator=generator)"
LAST = "mean + betas[t].sqrt() * z if t > 0 else mean"
FALLING = "reversed(range(T))"
FRESH = "torch.randn(x.shape, generator=generator)"
CLEAN = "(x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5"
SIGNAL, AGAIN = "alpha_bar_next**0.5 * x_0", "(1 - alpha_bar_next) ** 0.5 * eps"
VISITS = "list(range(T - 1, -1, -(T // steps)))"

PLANTED = {
    "pictures": Exercise(
        (
            Mistake("0 to 1", "black is 0", edit=(FLOATS, "pictures.float() / 255")),
            Mistake("divided by 128", "not 1; the bytes end at 255", edit=("/ 127.5", "/ 128")),
            Mistake(
                "standardised",
                "of this batch",
                edit=(FLOATS, "(pictures.float() - pictures.float().mean()) / pictures.float().std()"),
            ),
            Mistake("black and white exchanged", "are exchanged", edit=(FLOATS, "1 - pictures.float() / 127.5")),
            Mistake("float64", "asked is float32", edit=("pictures.float()", "pictures.double()")),
            Mistake("not bytes", "asked is torch.uint8", edit=(".to(torch.uint8)", "")),
            Mistake("cut, not rounded", "are cut off", edit=(".round()", "")),
            Mistake(
                "taken for 0 to 1", "taken for [0, 1]", edit=(ROUNDED, "(x.clamp(0, 1) * 255).round().to(torch.uint8)")
            ),
            Mistake("not cut to the range", "wrap around", edit=("x.clamp(-1, 1)", "x")),
        ),
        (
            "def from_bytes(pictures):\n"
            "    return torch.linspace(-1, 1, 256)[pictures.long()]\n"
            "def to_bytes(x):\n"
            "    return torch.floor(x * 127.5 + 128).clip(0, 255).byte()",
        ),
    ),
    "draws": Exercise(
        (
            Mistake("1 to T", "alpha_bars[T] does not exist", edit=("randint(0, T,", "randint(1, T + 1,")),
            Mistake("T-1 never", "T-1 is never drawn", edit=("randint(0, T,", "randint(0, T - 1,")),
            Mistake("0 never", "0 is never drawn", edit=("randint(0, T,", "randint(1, T,")),
            Mistake("T included", "the last one is T-1", edit=("randint(0, T,", "randint(0, T + 1,")),
            Mistake("one t", "the whole batch gets one t", edit=("(shape[0],)", "(1,)")),
            Mistake(
                "one t, expanded",
                "the whole batch gets one t",
                edit=(TIMES, TIMES.replace("(shape[0],)", "(1,)") + ".expand(shape[0])"),
            ),
            Mistake("fractions", "whole numbers", edit=(TIMES, "torch.rand(shape[0], generator=generator) * T")),
            Mistake(
                "more of the small ones",
                "t is not uniform",
                edit=(TIMES, "(torch.rand(shape[0], generator=generator) ** 2 * T).long()"),
            ),
            Mistake("uniform noise", "eps is uniform", edit=("randn(", "rand(")),
            Mistake("noise too small", "standard deviation 0.50", edit=(NOISE, "0.5 * " + NOISE)),
            Mistake("generator ignored", "global generator", edit=("(shape, generator=generator)", "(shape)")),
            Mistake(
                "seeded each time",
                "every step gets the same noise",
                edit=("    t = ", "    generator.manual_seed(0)\n    t = "),
            ),
            Mistake(
                "one noise for all",
                "all pictures of the batch get the same noise",
                edit=(NOISE, "torch.randn(1, *shape[1:], generator=generator).expand(shape)"),
            ),
        ),
        (
            "def draw(shape, T, generator):\n"
            "    eps = torch.empty(shape).normal_(generator=generator)\n"
            "    return torch.stack([torch.randint(T, (), generator=generator) for _ in range(shape[0])]), eps",
            "def draw(shape, T, generator):\n"
            "    t = (torch.rand(shape[0], generator=generator) * T).floor().long()\n"
            "    return t, torch.randn(*shape, generator=generator)",
        ),
    ),
    "step": Exercise(
        (
            Mistake("gradients left over", "are still there", edit=("optimizer.zero_grad()", "pass")),
            Mistake("no backward", "have not moved", edit=("loss.backward()", "pass")),
            Mistake("no step", "have not moved", edit=("optimizer.step()", "pass")),
            Mistake(
                "cleared before the step",
                "have not moved",
                edit=("optimizer.zero_grad()\n    loss.backward()", "loss.backward()\n    optimizer.zero_grad()"),
            ),
            Mistake(
                "step before backward",
                "one step late",
                edit=(
                    "optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
                    "optimizer.step()\n    optimizer.zero_grad()\n    loss.backward()",
                ),
            ),
            Mistake("in evaluation mode", "in evaluation mode", edit=("model.train()", "pass")),
            Mistake("the graph kept", "with its graph", edit=("loss.item()", "loss")),
            Mistake("sees the clean picture", "the clean x_0", edit=("model(x_t, t)", "model(x_0, t)")),
            Mistake("predicts the picture", "the target is x_0", edit=("model(x_t, t), eps", "model(x_t, t), x_0")),
            Mistake("sum", "the loss is the sum", edit=("t), eps)", 't), eps, reduction="sum")')),
            Mistake("no roots", "the roots are missing", edit=(".sqrt()", "")),
            Mistake("one root", "the root of the noise's variance", edit=("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")),
            Mistake("uphill", "the weights go uphill", edit=("loss.backward()", "(-loss).backward()")),
            Mistake(
                "loss after the step",
                "the loss after the step",
                edit=("loss.item()", "F.mse_loss(model(x_t, t), eps).item()"),
            ),
        ),
        (
            "def train_step(model, optimizer, x_0, t, eps, alpha_bars):\n"
            "    model.train(True)\n"
            "    x_t = torch.stack([alpha_bars[k].sqrt() * x + (1 - alpha_bars[k]).sqrt() * e\n"
            "                       for x, k, e in zip(x_0, t, eps)])\n"
            "    loss = (eps - model(x_t, t)).pow(2).mean()\n"
            "    model.zero_grad(set_to_none=False)\n"
            "    loss.backward()\n"
            "    optimizer.step()\n"
            "    return float(loss)",
            "def train_step(model, optimizer, x_0, t, eps, alpha_bars):\n"
            "    model.train()\n"
            "    bar = alpha_bars.gather(0, t)[:, None, None, None]\n"
            "    def closure():\n"
            "        optimizer.zero_grad()\n"
            "        loss = nn.MSELoss()(model(bar**0.5 * x_0 + (1 - bar) ** 0.5 * eps, t), eps)\n"
            "        loss.backward()\n"
            "        return loss\n"
            "    return optimizer.step(closure).item()",
        ),
    ),
    "ddpm": Exercise(
        (
            Mistake("noise at the last step", "noise is added at the last step", edit=(" if t > 0 else mean", "")),
            Mistake(
                "as the report prints it",
                "as the report prints it",
                edit=("(1 - alpha_bar).sqrt()", "(1 - alpha).sqrt()"),
            ),
            Mistake(
                "root missing below",
                "the root is missing in the denominator",
                edit=("(1 - alpha_bar).sqrt()", "(1 - alpha_bar)"),
            ),
            Mistake("root of alpha missing", "the root is missing: divide", edit=("/ alpha.sqrt()", "/ alpha")),
            Mistake("multiplied", "the way back divides", edit=("/ alpha.sqrt()", "* alpha.sqrt()")),
            Mistake(
                "alpha_bar for alpha",
                "alpha_bar_t stands where alpha_t belongs",
                edit=("/ alpha.sqrt()", "/ alpha_bar.sqrt()"),
            ),
            Mistake("1-based t", "t is counted from 1", edit=("    alpha, ", "    t = t - 1\n    alpha, ")),
            Mistake(
                "bracket forgotten",
                "the whole bracket is",
                edit=(
                    "(x_t - (1 - alpha) / (1 - alpha_bar).sqrt() * eps) / alpha.sqrt()",
                    "x_t / alpha.sqrt() - (1 - alpha) / (1 - alpha_bar).sqrt() * eps",
                ),
            ),
            Mistake("noise added", "eps is added", edit=("(x_t - ", "(x_t + ")),
            Mistake("alpha above the line", "alpha_t stands above the line", edit=("(1 - alpha) /", "alpha /")),
            Mistake("all the noise", "1 - alpha_bar_t stands above", edit=("(1 - alpha) /", "(1 - alpha_bar) /")),
            Mistake("sigma without root", "its root is asked", edit=("betas[t].sqrt() * z", "betas[t] * z")),
            Mistake(
                "the posterior's variance",
                "the posterior's standard deviation",
                edit=("betas[t].sqrt() * z", "(betas[t] * (1 - alpha_bar / alpha) / (1 - alpha_bar)).sqrt() * z"),
            ),
            Mistake(
                "noise inside",
                "inside of the bracket",
                edit=("betas[t].sqrt() * z", "betas[t].sqrt() / alpha.sqrt() * z"),
            ),
            Mistake(
                "all the noise so far",
                "all the noise so far",
                edit=("betas[t].sqrt() * z", "(1 - alpha_bar).sqrt() * z"),
            ),
            Mistake("no noise", "no noise is added", edit=(LAST, "mean")),
            Mistake("noise drawn afresh", "global generator", edit=("* z", "* torch.randn_like(x_t)")),
        ),
        (
            "def ddpm_step(x_t, eps, t, betas, z):\n"
            "    bars = torch.cat([torch.ones(1, dtype=betas.dtype), torch.cumprod(1 - betas, 0)])\n"
            "    x_0 = (x_t - (1 - bars[t + 1]).sqrt() * eps) / bars[t + 1].sqrt()\n"
            "    mean = bars[t].sqrt() * betas[t] * x_0 + (1 - betas[t]).sqrt() * (1 - bars[t]) * x_t\n"
            "    return mean / (1 - bars[t + 1]) + (t > 0) * betas[t].sqrt() * z",
            "def ddpm_step(x_t, eps, t, betas, z):\n"
            "    bar = 1.0\n"
            "    for beta in betas[: t + 1].tolist():\n"
            "        bar *= 1 - beta\n"
            "    x = x_t - beta / (1 - bar) ** 0.5 * eps\n"
            "    x = x / (1 - beta) ** 0.5\n"
            "    if t != 0:\n"
            "        x = torch.add(x, z, alpha=beta**0.5)\n"
            "    return x",
        ),
    ),
    "loop": Exercise(
        (
            Mistake("upwards", "time runs upwards", edit=(FALLING, "range(T)")),
            Mistake("last one missing", "the last step, t = 0, is missing", edit=(FALLING, "range(T - 1, 0, -1)")),
            Mistake("1-based t", "t is counted from 1", edit=(FALLING, "range(T, 0, -1)")),
            Mistake("first one missing", "the first step, t = T-1, is missing", edit=(FALLING, "range(T - 2, -1, -1)")),
            Mistake(
                "the model counts otherwise",
                "but step is called with",
                edit=("step(x, eps, t, z)", "step(x, eps, t + 1, z)"),
            ),
            Mistake(
                "one number for the batch", "one for each picture", edit=("torch.full((len(x),), t)", "torch.tensor(t)")
            ),
            Mistake(
                "t as a fraction", "whole numbers", edit=("torch.full((len(x),), t)", "torch.full((len(x),), float(t))")
            ),
            Mistake("in training mode", "samples in training mode", edit=("    model.eval()\n", "")),
            Mistake("with gradients", "the gradients of all steps", edit=("torch.no_grad()", "torch.enable_grad()")),
            Mistake(
                "left in evaluation mode", "is left in evaluation mode", edit=("model.train(was_training)", "pass")
            ),
            Mistake(
                "left in training mode", "is left in training mode", edit=("model.train(was_training)", "model.train()")
            ),
            Mistake(
                "same noise",
                "every step gets the same noise",
                edit=("generator=generator)", "generator=generator.manual_seed(3))"),
            ),
            Mistake(
                "one noise for all",
                "each picture has noise of its own",
                edit=("torch.randn(x.shape,", "torch.randn(1, *x.shape[1:],"),
            ),
            Mistake("generator ignored", "global generator", edit=(FRESH, "torch.randn_like(x)")),
            Mistake(
                "another generator",
                "z is not what",
                edit=(FRESH, "torch.randn(x.shape, generator=torch.Generator().manual_seed(t))"),
            ),
            Mistake(
                "from x_T again",
                "every step starts from x_T",
                edit=("x = step(x, eps, t, z)", "out = step(x, eps, t, z)\n    x = out"),
            ),
            Mistake(
                "in place",
                "changes its argument x_T in place",
                edit=("x = step(x, eps, t, z)", "x.copy_(step(x, eps, t, z))"),
            ),
        ),
        (
            "@torch.inference_mode()\n"
            "def sample(model, step, x_T, T, generator):\n"
            "    mode, x = model.training, x_T.clone()\n"
            "    model.train(False)\n"
            "    for k in range(T):\n"
            "        t = T - 1 - k\n"
            "        eps = model(x, t * torch.ones(len(x), dtype=torch.int64))\n"
            "        z = torch.randn(x.shape, generator=generator) if t else torch.zeros_like(x)\n"
            "        x = step(x, eps, t, z)\n"
            "    model.train(mode)\n"
            "    return x",
            "def sample(model, step, x, T, generator):\n"
            "    mode = model.training\n"
            "    try:\n"
            "        model.eval()\n"
            "        while T > 0:\n"
            "            T -= 1\n"
            "            with torch.no_grad():\n"
            "                eps = model(x, torch.tensor([T] * len(x)))\n"
            "            x = step(x, eps, T, torch.randn(x.shape, generator=generator))\n"
            "        return x\n"
            "    finally:\n"
            "        model.train(mode)",
        ),
    ),
    "ddim": Exercise(
        (
            Mistake(
                "nothing moves",
                "so nothing moves",
                edit=("alpha_bar_next**0.5 * x_0 + (1 - alpha_bar_next)", "alpha_bar**0.5 * x_0 + (1 - alpha_bar)"),
            ),
            Mistake(
                "exchanged",
                "are exchanged",
                edit=("    x_0 = ", "    alpha_bar, alpha_bar_next = alpha_bar_next, alpha_bar\n    x_0 = "),
            ),
            Mistake("the clean picture", "this is the clean picture", edit=(f"{SIGNAL} + {AGAIN}", "x_0")),
            Mistake(
                "noise keeps its size", "the noise keeps its old size", edit=(AGAIN, "(1 - alpha_bar) ** 0.5 * eps")
            ),
            Mistake("picture not shrunk", "is not shrunk", edit=(SIGNAL, "x_0")),
            Mistake(
                "roots missing",
                "the roots of alpha_bar_next",
                edit=(f"{SIGNAL} + {AGAIN}", "alpha_bar_next * x_0 + (1 - alpha_bar_next) * eps"),
            ),
            Mistake("root missing", "the root of 1 - alpha_bar_next", edit=(AGAIN, "(1 - alpha_bar_next) * eps")),
            Mistake(
                "root of the old noise missing",
                "the root of 1 - alpha_bar is",
                edit=("(1 - alpha_bar) ** 0.5", "(1 - alpha_bar)"),
            ),
            Mistake(
                "not divided", "the division by sqrt(alpha_bar)", edit=(CLEAN, "x_t - (1 - alpha_bar) ** 0.5 * eps")
            ),
            Mistake("clipped", "the formula does not", edit=(CLEAN, f"({CLEAN}).clamp(-1, 1)")),
            Mistake("no noise", "the new noise is missing", edit=(f" + {AGAIN}", "")),
            Mistake("wrong sign", "eps is subtracted the second time", edit=(f"+ {AGAIN}", f"- {AGAIN}")),
            Mistake(
                "fresh noise", "global generator", edit=(AGAIN, "(1 - alpha_bar_next) ** 0.5 * torch.randn_like(eps)")
            ),
        ),
        (
            "def ddim_step(x_t, eps, alpha_bar, alpha_bar_next):\n"
            "    ratio = math.sqrt(alpha_bar_next / alpha_bar)\n"
            "    return ratio * x_t + (math.sqrt(1 - alpha_bar_next) - ratio * math.sqrt(1 - alpha_bar)) * eps",
            "def ddim_step(x_t, eps, alpha_bar, alpha_bar_next):\n"
            "    sigma = lambda bar: math.sqrt(1 / bar - 1)\n"
            "    y = x_t / math.sqrt(alpha_bar) + (sigma(alpha_bar_next) - sigma(alpha_bar)) * eps\n"
            "    return math.sqrt(alpha_bar_next) * y",
        ),
    ),
    "visits": Exercise(
        (
            Mistake("T-1 never seen", "the first is T - T/steps", edit=(VISITS, "list(range(0, T, T // steps))[::-1]")),
            Mistake("rising", "they rise;", edit=(VISITS, VISITS + "[::-1]")),
            Mistake("rising from 0", "T-1 is not among them", edit=(VISITS, "list(range(0, T, T // steps))")),
            Mistake("1-based t", "counted from 1", edit=("T - 1, -1,", "T, 0,")),
            Mistake("linspace", "(linspace)", edit=(VISITS, "torch.linspace(T - 1, 0, steps).round().long().tolist()")),
            Mistake("one too many", "there is one too many", edit=("T - 1, -1,", "T - 1, -2,")),
            Mistake("ends at 0", "0 stands at the end", edit=(VISITS, VISITS + " + [0]")),
            Mistake("all", "expected 4", edit=("-(T // steps)", "-1")),
        ),
        (
            "def visited(T, steps):\n    return [T - 1 - i * (T // steps) for i in range(steps)]",
            "def visited(T, steps):\n    return (torch.arange(steps, 0, -1) * T // steps - 1).tolist()",
        ),
    ),
}
