"""Series of measurements behind the later notebooks: each setting is measured once and kept.

What takes minutes to measure is shipped as `pretrained/study_<name>.jsonl`, one line a setting. What is not there, or
was measured on other weights, is measured when it is asked for, and kept in the project's cache. The weights may be
those shipped (`pretrained`) or those trained here (`retrained`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from ddpm_lib import pretrained
from ddpm_lib.checkpoints import read_lines, write_lines
from ddpm_lib.evaluation import Evaluation, evaluate_model, evaluation_from_dict, noise_floor
from ddpm_lib.files import cache_dir, locked
from ddpm_lib.guidance import Autoguided, weight_in_interval
from ddpm_lib.progress import ProgressBar

REAL = "real"


@dataclass(frozen=True)
class Setting:
    """One measurement: which model, sampled how."""

    model: str  # see `pretrained.MODELS`; "real": no model, but n test images judged like samples (the noise floor)
    epoch: int | None = None  # None: the last
    sigma_rel: float | None = None  # instead of its own weights, the average of this relative width; None: its own
    guidance_weight: float = 0.0
    noise_levels: tuple[float, float] | None = None  # guided only where low < sigma <= high; None: everywhere
    guide: tuple[str, int] | None = None  # another model and its epoch, to go away from; None: the model without label
    sampler: str = "dpm_solver"
    steps: int | None = 10  # None: every timestep
    spacing: str | None = None  # None: the sampler's own
    seed: int = 0
    n: int = 1000


def measure(setting: Setting, models: ModuleType = pretrained) -> Evaluation:
    """Samples and judges, now. Raises InputError for what the setting names and is not in `models`."""
    if setting.model == REAL:
        return noise_floor(setting.n, setting.seed)
    model = models.load(setting.model, setting.epoch, setting.sigma_rel)
    schedule = models.schedule(setting.model)
    network = model if setting.guide is None else Autoguided(model, models.load(*setting.guide)).eval()
    w = setting.guidance_weight
    if setting.noise_levels is not None:
        w = weight_in_interval(w, schedule, *setting.noise_levels)
    options = {} if setting.spacing is None else {"spacing": setting.spacing}
    steps = schedule.T if setting.steps is None else setting.steps
    return evaluate_model(network, schedule, setting.n, w, setting.sampler, steps, setting.seed, **options)[0]


def measured(
    name: str,
    settings: Sequence[Setting],
    recompute: bool = False,
    models: ModuleType = pretrained,
    progress: bool = True,
) -> list[Evaluation]:
    """The evaluations of all settings, in their order; what is not kept is measured and kept.

    Args:
        name: of the series: `pretrained/study_<name>.jsonl`.
        settings: what to measure.
        recompute: pass over what is shipped, and measure it here; results of this machine's cache still count.
        models: whose weights: `pretrained`, or `retrained`, of which nothing is shipped.
        progress: show a bar for what is measured.

    Raises:
        InputError: a setting names what is not there.
        CheckpointError: a file of results is damaged.
    """
    kept = cache_dir() / "studies" / f"{name}.jsonl"
    with locked(kept):
        own = _read(kept)
        shipped = {} if recompute or models is not pretrained else _read(pretrained.FOLDER / f"study_{name}.jsonl")
        known = shipped | own
        keys = [_key(setting, models) for setting in settings]
        todo = {key: setting for key, setting in zip(keys, settings, strict=True) if key not in known}
        for key, setting in ProgressBar(todo.items(), unit="setting", disable=not (progress and todo)):
            own[key] = known[key] = measure(setting, models)
            write_lines(kept, ({"key": key, "evaluation": value.to_dict()} for key, value in own.items()))
    return [known[key] for key in keys]


def _key(setting: Setting, models: ModuleType) -> str:
    """All that decides the result: the setting, and the weights it names."""
    networks = [] if setting.model == REAL else [(setting.model, setting.epoch, setting.sigma_rel)]
    networks += [] if setting.guide is None else [setting.guide]
    given = {name: value for name, value in asdict(setting).items() if value is not None}
    values = json.loads(json.dumps(given), parse_int=float)  # w = 2 and w = 2.0 are one setting
    return json.dumps({**values, "weights": [models.fingerprint(*network) for network in networks]})


def _read(path: Path) -> dict[str, Evaluation]:
    if not path.exists():
        return {}
    return dict(read_lines(path, lambda line: (line["key"], evaluation_from_dict(line["evaluation"]))))
