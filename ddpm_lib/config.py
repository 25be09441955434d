"""Every value that the report leaves open, in one place, each with its reason."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ddpm_lib.errors import ConfigError, DDPMError, nearest

SCHEDULES = ("linear", "cosine")
LR_SCHEDULES = ("constant", "one_cycle")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Config:
    """One training run, complete: the same config, code and data give the same run.

    Raises:
        ConfigError: a value has the wrong type or lies outside its range.
    """

    # --- the forward process -------------------------------------------------------------------
    T: int = 1000  # DDPM's number of steps; the report does not say
    schedule: str = "linear"  # the report's formula; "cosine" for comparison
    beta_start: float = 1e-4  # DDPM, section 4
    beta_end: float = 0.02  # DDPM, section 4: alpha_bars ends at 4e-5, so x_T is noise

    # --- the network ---------------------------------------------------------------------------
    conditional: bool = False  # False: Basic. True: with the label embedding, for guidance
    head_width: int = 16  # channels per attention head; no parameter depends on it. Four heads would
    # be four channels wide at 28x28 and cost twice the time of everything else together

    # --- the training --------------------------------------------------------------------------
    epochs: float = 20.0  # the report's longest run; a fraction trains part of an epoch
    batch_size: int = 128  # DDPM on CIFAR-10; 468 steps an epoch
    lr: float = 3e-4  # the usual rate of AdamW on small UNets; the peak, when lr_schedule is one_cycle
    lr_schedule: str = "constant"  # the report names none
    drop_probability: float = 0.1  # per sample; Ho & Salimans find 0.1 to 0.2 best
    ema_beta: float = 0.995  # averages over about 200 steps, half an epoch
    ema_start: int = 2000  # until then the average copies the weights: see notebook 06
    power_emas: bool = False  # also keep two power-function averages (Karras et al. 2024): see notebook 10
    seed: int = 0  # weights, order of the images, noise, timesteps, dropped labels

    # --- how the machine computes it -------------------------------------------------------------
    precision: str = "auto"  # what the hardware does well; see training.choose_precision

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            _check_type(field.name, value, str(field.type))
            if field.type == "float":
                object.__setattr__(self, field.name, float(value))  # 20 and 20.0 are one config, with one key
        _check_range("T", self.T, 2, 100_000)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)
        for name in ("beta_start", "beta_end"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie inside (0, 1), e.g. 1e-4 to 0.02")
        if self.beta_start > self.beta_end:
            raise ConfigError(
                f"beta_start {self.beta_start} is above beta_end {self.beta_end}; noise must grow: swap them"
            )
        _check_range("head_width", self.head_width, 1, 16)
        if 16 % self.head_width:
            raise ConfigError(f"head_width is {self.head_width}; it must divide 16, the narrowest attention layer")
        _check_range("batch_size", self.batch_size, 1, 60_000)
        _check_range("drop_probability", self.drop_probability, 0.0, 1.0)
        _check_range("ema_beta", self.ema_beta, 0.0, 1.0)
        _check_range("ema_start", self.ema_start, 0, 10**9)
        _check_range("seed", self.seed, 0, 2**32 - 1)
        for name in ("epochs", "lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be a finite number above 0")

    def replace(self, **changes: Any) -> Config:
        """A copy with some values changed. Unknown names raise ConfigError with the nearest known one."""
        _check_names(changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON or YAML."""
        return asdict(self)

    def key(self) -> str:
        """A short hash of all values: equal exactly for equal configs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a Config from a mapping; what is left out keeps its default. Raises ConfigError."""
    _check_names(values)
    return Config(**values)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 3e-4 is a number (YAML 1.1 wants 3.0e-4), and no name may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """What a YAML text says, read safely: nothing in it is executed. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml_file(path: str | Path, what: str, error: type[DDPMError]) -> Any:
    """What a YAML file says, read safely. Raises `error`, whose message calls the file `what`: a profile, a sweep."""
    try:
        return read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"cannot read the {what} {path}: {problem.strerror}") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"the {what} {path} is not valid YAML: {' '.join(str(problem).split())}") from problem


def config_from_yaml(path: str | Path) -> Config:
    """Reads a Config from a YAML file (safely: nothing in it is executed). Raises ConfigError."""
    values = read_yaml_file(path, "configuration", ConfigError) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; it must hold name: value lines")
    return config_from_dict(values)


def _check_names(values: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Config)]
    for name in values:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}; {nearest(str(name), known)}")


def _check_type(name: str, value: Any, expected: str) -> None:
    allowed = {"int": int, "float": (int, float), "str": str, "bool": bool}[expected]
    if not isinstance(value, allowed) or (isinstance(value, bool) and expected != "bool"):
        raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}; it must be of type {expected}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must lie in {low} … {high}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; {nearest(value, choices)}")


RECIPES = {
    "basic": Config(power_emas=True),  # the report's first variant
    "cfg": Config(conditional=True, power_emas=True),  # the report's second and third: raw and averaged weights
    "fast": Config(  # the best model for half an hour to an hour of two cores: small batches make more steps
        conditional=True,
        epochs=7,
        batch_size=64,
        lr=2e-3,
        lr_schedule="one_cycle",
        ema_beta=0.999,
        ema_start=500,
    ),
}
