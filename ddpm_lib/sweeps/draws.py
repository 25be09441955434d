"""Parameters drawn at random, as a sweep's `random` says it.

random:
  draws: 12
  seed: 0
  from:
    lr: {log_uniform: [1e-4, 1e-2]}
    batch_size: {choice: [32, 64, 128]}
    drop_probability: {uniform: [0, 0.3]}
    steps: {integers: [5, 50]}
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_lib.errors import NotebookError, nearest


def sub_mapping(path: Path, content: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """The `name: value` lines under an entry of the sweep's file; none if it is not there. Raises NotebookError."""
    values = content.get(entry) or {}
    if not isinstance(values, dict):
        raise NotebookError(f"{path}: {entry} is {values!r}; it must hold `name: value` lines")
    return values


def drawn_runs(path: Path, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters of each draw; none where there are no options.

    Each depends on seed, number and name alone: more draws, or more names, leave the others as they are.

    Args:
        path: the sweep's file, for messages.
        options: `draws`, `seed` and `from`, as in the file.

    Raises:
        NotebookError: an option or a rule is wrong.
    """
    if not options:
        return []
    for option in options:
        if option not in ("draws", "seed", "from"):
            raise NotebookError(f"{path} has {option!r} in random; {nearest(str(option), ('draws', 'seed', 'from'))}")
    draws, seed, ranges = options.get("draws"), options.get("seed", 0), sub_mapping(path, options, "from")
    if type(draws) is not int or draws < 1 or type(seed) is not int or not ranges:
        raise NotebookError(
            f"{path}: random needs draws (a number from 1), may have seed (a number), and needs from, "
            "with lines such as `lr: {log_uniform: [1e-4, 1e-2]}`"
        )
    return [
        {name: _draw(path, name, rule, random.Random(f"{seed}/{index}/{name}")) for name, rule in ranges.items()}
        for index in range(draws)
    ]


def _draw(path: Path, name: str, rule: Any, source: random.Random) -> Any:
    try:
        ((kind, values),) = rule.items()
        if kind == "choice" and isinstance(values, list):
            return source.choice(values)
        low, high = values
        if low < high and kind == "integers":
            return source.randint(low, high)
        if low < high and kind == "uniform":
            return _rounded(source.uniform(low, high), low, high)
        if 0 < low < high and kind == "log_uniform":
            return _rounded(math.exp(source.uniform(math.log(low), math.log(high))), low, high)
    except (AttributeError, TypeError, ValueError, IndexError):
        pass
    raise NotebookError(
        f"{path}: {name} is drawn from {rule!r}; write {{choice: [values]}}, or uniform, log_uniform (above 0) "
        "or integers with [low, high]"
    )


def _rounded(value: float, low: float, high: float) -> float:
    """To four digits, which a person can read and write again."""
    return float(min(high, max(low, float(f"{value:.4g}"))))
