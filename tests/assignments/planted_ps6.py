"""Problem set 6: wrong answers known from real code, and other right ones."""

from __future__ import annotations

from planted import Exercise, Mistake

MIXED = "beta * average + (1 - beta) * current"
PAIRS = "zip(average.parameters(), model.parameters(), strict=True)"
STEP = "ours.mul_(beta).add_(theirs, alpha=1 - beta)"
COPY = "ours.copy_(theirs)"
UPDATE = "def update(average, model, beta):\n"
OWN = "{name: value.clone() for name, value in model.state_dict().items()}"
BORROW = "def with_average(model, average, function):\n"

PLANTED = {
    "start": Exercise(
        (
            Mistake("from step 0", "averaging begins at once", edit=("step <= start", "step == 0")),
            Mistake("one step early", "one step early", edit=("step <= start", "step < start")),
            Mistake("one step late", "one step late", edit=("step <= start", "step <= start + 1")),
            Mistake("exchanged", "are exchanged", edit=(MIXED, "(1 - beta) * average + beta * current")),
            Mistake(
                "from zeros",
                "the average starts from zeros",
                code="def averages(weights, beta, start):\n"
                "    rows, average = [], 0\n"
                "    for step, current in enumerate(weights):\n"
                "        if step > start:\n"
                "            average = beta * average + (1 - beta) * current\n"
                "        rows.append(average if step > start else current)\n"
                "    return torch.stack(rows)",
            ),
            Mistake(
                "raw weights for the old average",
                "the old raw weights stand",
                edit=("beta * average", "beta * weights[step - 1]"),
            ),
            Mistake(
                "the first weights again",
                "the first weights come back",
                edit=(MIXED, "beta * (weights[0] if step == start + 1 else average) + (1 - beta) * current"),
            ),
            Mistake("plain mean", "the plain mean since start", edit=(MIXED, "weights[start : step + 1].mean(0)")),
            Mistake("copies", "nothing is averaged", edit=("beta * average + (1 - beta) * current", "current")),
        ),
        (
            "def averages(weights, beta, start):\n"
            "    result = weights.clone()\n"
            "    for k in range(start + 1, len(weights)):\n"
            "        result[k] = torch.lerp(result[k - 1], weights[k], 1 - beta)\n"
            "    return result",
            "def averages(weights, beta, start):\n"
            "    rows = list(weights[: start + 1])\n"
            "    for current in weights[start + 1 :]:\n"
            "        rows.append(rows[-1] - (1 - beta) * (rows[-1] - current))\n"
            "    return torch.stack(rows)",
        ),
    ),
    "network": Exercise(
        (
            Mistake("exchanged", "are exchanged", edit=(STEP, "ours.mul_(1 - beta).add_(theirs, alpha=beta)")),
            Mistake("copied", "it is copied from the model", edit=(STEP, COPY)),
            Mistake(
                "on a copy of the list",
                "it has not been updated",
                edit=(STEP, "ours = beta * ours + (1 - beta) * theirs"),
            ),
            Mistake("beta not used", "it is the plain mean", edit=(STEP, "ours.add_(theirs).div_(2)")),
            Mistake("weights grow", "1 - beta is missing", edit=(", alpha=1 - beta", "")),
            Mistake(
                "the model averaged",
                "the network in training has been changed",
                edit=(STEP, "theirs.mul_(1 - beta).add_(ours, alpha=beta)"),
            ),
            Mistake("buffers forgotten", "buffers are forgotten", edit=(COPY, "pass")),
            Mistake(
                "buffers averaged", "buffers are averaged", edit=(COPY, "ours.copy_(beta * ours + (1 - beta) * theirs)")
            ),
            Mistake(
                "the whole state dict averaged",
                "buffers are averaged",
                code=UPDATE + "    theirs = model.state_dict()\n"
                "    for name, value in average.state_dict().items():\n"
                "        value.copy_(beta * value + (1 - beta) * theirs[name])\n"
                "    return average",
            ),
            Mistake("a graph", "carries a graph", edit=("torch.no_grad()", "torch.enable_grad()")),
            Mistake("buffers shared", "shares memory", edit=(COPY, "ours.data = theirs.data")),
            Mistake(
                "another network",
                "what comes back is another network",
                code=UPDATE + "    import copy\n"
                "    result = copy.deepcopy(model).requires_grad_(False)\n"
                "    for new, old in zip(result.parameters(), average.parameters()):\n"
                "        new.lerp_(old, beta)\n"
                "    return result",
            ),
            Mistake("no return", "returns None", edit=("return average", "pass")),
        ),
        (
            UPDATE + "    theirs, buffers = model.state_dict(), dict(model.named_buffers())\n"
            "    for name, value in average.state_dict().items():\n"
            "        value.copy_(theirs[name] if name in buffers else beta * value + (1 - beta) * theirs[name])\n"
            "    return average",
            UPDATE + "    with torch.no_grad():\n"
            "        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)\n"
            "    for ours, theirs in zip(average.buffers(), model.buffers()):\n"
            "        ours.data.copy_(theirs)\n"
            "    return average",
            "@torch.no_grad()\n" + UPDATE + "    for name, p in model.named_parameters():\n"
            "        average.get_parameter(name).data = beta * average.get_parameter(name) + (1 - beta) * p.detach()\n"
            "    for name, b in model.named_buffers():\n"
            "        average.get_buffer(name).fill_(0).add_(b)\n"
            "    return average",
        ),
    ),
    "shares": Exercise(
        (
            Mistake("the wrong way round", "the oldest comes last", edit=("return result", "return result.flip(0)")),
            Mistake(
                "1 - beta for the first", "have been multiplied by 1 - beta", edit=("    result[0] = beta**n\n", "")
            ),
            Mistake("one too old", "one too large", edit=("torch.arange(n, -1, -1", "torch.arange(n + 1, 0, -1")),
            Mistake(
                "plain mean",
                "this is the plain mean",
                edit=("return result", "return torch.full((n + 1,), 1 / (n + 1))"),
            ),
            Mistake("not times 1 - beta", "1 - beta is missing", edit=("(1 - beta) * beta**ages", "beta**ages")),
            Mistake("first ones left out", "are left out", edit=("result[0] = beta**n", "result[0] = 0")),
            Mistake(
                "scaled to 1",
                "they are scaled to the sum 1",
                edit=("    result[0] = beta**n\n    return result", "    return result / result.sum()"),
            ),
            Mistake(
                "exchanged",
                "beta and 1 - beta are exchanged",
                edit=("    ages = ", "    beta = 1 - beta\n    ages = "),
            ),
        ),
        (
            "def shares(n, beta):\n"
            "    result = [1.0]\n"
            "    for _ in range(n):\n"
            "        result = [beta * share for share in result] + [1 - beta]\n"
            "    return torch.tensor(result, dtype=torch.float64)",
            "def shares(n, beta):\n"
            "    bounds = beta ** torch.arange(n, -1, -1, dtype=torch.float64)\n"
            "    return torch.diff(bounds, prepend=torch.zeros(1, dtype=torch.float64))",
        ),
    ),
    "forgotten": Exercise(
        (
            Mistake(
                "rounded down",
                "round up",
                code="def forgotten(beta, share): return int(math.log(share) / math.log(beta))",
            ),
            Mistake(
                "the window",
                "the length of the window",
                code="def forgotten(beta, share): return round(1 / (1 - beta))",
            ),
            Mistake(
                "an approximation",
                "is an approximation",
                code="def forgotten(beta, share): return math.ceil(-math.log(share) / (1 - beta))",
            ),
            Mistake(
                "upside down",
                "upside down",
                code="def forgotten(beta, share): return math.ceil(math.log(beta) / math.log(share))",
            ),
            Mistake("one too many", "one too many", edit=("return n", "return n + 1")),
            Mistake("below, not at most", "expected 2", edit=("beta**n > share", "beta**n >= share")),
        ),
        (
            "def forgotten(beta, share):\n"
            "    n, left = 0, 1.0\n"
            "    while left > share:\n"
            "        n, left = n + 1, left * beta\n"
            "    return n",
            "def forgotten(beta, share):\n    return math.ceil(round(math.log(share) / math.log(beta), 9))",
        ),
    ),
    "bias": Exercise(
        (
            Mistake("not corrected", "not corrected", edit=("m / (1 - beta**k)", "m")),
            Mistake("divided by 1 - beta", "divided by 1 - beta;", edit=("beta**k", "beta")),
            Mistake("k from 0", "1 - beta^(k-1)", edit=("beta**k", "beta ** (k - 1)")),
            Mistake("k from 2", "1 - beta^(k+1)", edit=("beta**k", "beta ** (k + 1)")),
            Mistake(
                "corrected in the recursion",
                "goes on in the recursion",
                edit=("rows.append(m / (1 - beta**k))", "m = m / (1 - beta**k)\n        rows.append(m)"),
            ),
            Mistake("divided by beta^k", "divided by beta^k", edit=("(1 - beta**k)", "beta**k")),
            Mistake("multiplied", "multiplied; divide", edit=("m / (1", "m * (1")),
            Mistake(
                "from a copy",
                "a copy of the first weights",
                edit=("m / (1 - beta**k))", "m if k > 1 else m.copy_(current).clone())"),
            ),
        ),
        (
            "def corrected(weights, beta):\n"
            "    rows, total, norm = [], 0, 0\n"
            "    for w in weights:\n"
            "        total, norm = beta * total + w, beta * norm + 1\n"
            "        rows.append(total / norm)\n"
            "    return torch.stack(rows)",
            "def corrected(weights, beta):\n"
            "    n = len(weights)\n"
            "    ages = torch.arange(n)[:, None] - torch.arange(n)\n"
            "    shares = torch.tril(beta ** ages.clamp(min=0).to(weights.dtype))\n"
            "    return torch.einsum('nk,kd->nd', shares / shares.sum(1, keepdim=True), weights)",
        ),
    ),
    "power": Exercise(
        (
            Mistake("exponent gamma", "the exponent is gamma;", edit=("(gamma + 1)", "gamma")),
            Mistake("exponent gamma + 2", "the exponent is gamma + 2", edit=("(gamma + 1)", "(gamma + 2)")),
            Mistake("t too large", "one too large", edit=("start=1", "start=2")),
            Mistake("t too small", "one too small", edit=("beta = (1 - 1 / t)", "beta = (1 - 1 / max(t - 1, 1))")),
            Mistake(
                "exchanged",
                "are exchanged",
                edit=("beta * average + (1 - beta) * current", "(1 - beta) * average + beta * current"),
            ),
            Mistake("not averaged", "nothing is averaged", edit=("rows.append(average)", "rows.append(current)")),
        ),
        (
            "def power_averages(weights, gamma):\n"
            "    result = weights.clone()\n"
            "    for t in range(2, len(weights) + 1):\n"
            "        result[t - 1] = torch.lerp(weights[t - 1], result[t - 2], ((t - 1) / t) ** (gamma + 1))\n"
            "    return result",
        ),
    ),
    "borrowed": Exercise(
        (
            Mistake("not cloned", "no copies: clone", edit=(OWN, "model.state_dict()")),
            Mistake("a shallow copy", "no copies: clone", edit=(OWN, "dict(model.state_dict())")),
            Mistake(
                "not given back",
                "does not have its own weights back",
                edit=("        model.load_state_dict(own)\n", ""),
            ),
            Mistake("in training mode", "in training mode: dropout", edit=("        model.eval()\n", "")),
            Mistake("left in evaluation mode", "is left in evaluation mode", edit=("model.train(mode)", "pass")),
            Mistake("left in training mode", "is left in training mode", edit=("model.train(mode)", "model.train()")),
            Mistake(
                "the own weights shown",
                "does not see the average's parameters",
                edit=("model.load_state_dict(average)", "pass"),
            ),
            Mistake(
                "not after a failure",
                "try … finally",
                code=BORROW + f"    own, mode = {OWN}, model.training\n"
                "    model.load_state_dict(average)\n"
                "    result = function(model.eval())\n"
                "    model.load_state_dict(own)\n"
                "    model.train(mode)\n"
                "    return result",
            ),
            Mistake(
                "the error swallowed",
                "nobody hears of it",
                edit=(
                    "        return function(model)\n",
                    "        return function(model)\n    except Exception:\n        return None\n",
                ),
            ),
            Mistake(
                "parameters only",
                "with the model's own buffers",
                edit=(
                    "model.load_state_dict(average)",
                    "model.load_state_dict({n: average[n] for n, _ in model.named_parameters()}, strict=False)",
                ),
            ),
            Mistake(
                "buffers kept",
                "but not its buffers",
                edit=(
                    "model.load_state_dict(own)",
                    "model.load_state_dict({n: own[n] for n, _ in model.named_parameters()}, strict=False)",
                ),
            ),
            Mistake(
                "memory shared",
                "they share memory",
                edit=("model.load_state_dict(average)", "model.load_state_dict(average, assign=True)"),
            ),
            Mistake(
                "other Parameter objects",
                "the optimizer would train the old ones",
                edit=("model.load_state_dict(own)", "model.load_state_dict(own, assign=True)"),
            ),
        ),
        (
            BORROW + "    import copy\n"
            "    network = copy.deepcopy(model)\n"
            "    network.load_state_dict(average)\n"
            "    return function(network.eval())",
            BORROW + "    import contextlib, copy\n"
            "    @contextlib.contextmanager\n"
            "    def borrowed():\n"
            "        own, mode = copy.deepcopy(model.state_dict()), model.training\n"
            "        model.train(False)\n"
            "        for name, value in model.state_dict().items():\n"
            "            value.copy_(average[name])\n"
            "        try:\n"
            "            yield model\n"
            "        finally:\n"
            "            for name, value in model.state_dict().items():\n"
            "                value.copy_(own[name])\n"
            "            model.train(mode)\n"
            "    with borrowed() as network:\n"
            "        return function(network)",
        ),
    ),
    "beta": Exercise(
        (
            Mistake("upside down", "upside down", edit=("batch / pictures", "pictures / batch")),
            Mistake("per picture", "the batch is not used", edit=("batch / pictures", "1 / pictures")),
            Mistake(
                "the window", "this is 1 - batch / pictures", edit=("0.5 ** (batch / pictures)", "1 - batch / pictures")
            ),
            Mistake("to 1/e", "falls to 1/e", edit=("0.5 ** (batch / pictures)", "math.exp(-batch / pictures)")),
        ),
        ("def beta_of_half_life(pictures, batch):\n    return math.exp(-math.log(2) * batch / pictures)",),
    ),
}
