"""The errors a user meets. Each says the value, what is allowed, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DDPMError(Exception):
    """Base class of every error this library raises on purpose."""


class InputError(DDPMError, ValueError):
    """An argument has a wrong value, shape or dtype."""


class ConfigError(InputError):
    """A setting is unknown, mistyped or out of range."""


class DataError(DDPMError):
    """Fashion-MNIST is missing, truncated or altered."""


class CheckpointError(DDPMError):
    """A checkpoint or weights file is missing, torn, tampered with, or from something else."""


class TrainingError(DDPMError):
    """Training cannot go on: the loss is no longer a finite number."""


class NotebookError(DDPMError):
    """A notebook run was asked for wrongly, or one of its cells failed."""


class CourseError(DDPMError):
    """An assignment cannot be released or graded, or a submission is not what it should be."""


class SweepError(DDPMError):
    """A sweep cannot go on: its scheduler, its folder or its code is not what it was."""


class Stopped(KeyboardInterrupt):
    """A training was stopped on purpose, and saved. Not an error, and so not a DDPMError."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the message, without the way through the library."""
        return [str(self)]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known name if one is near, then all of them.

    >>> nearest("guidance_wieght", ["guidance_weight", "seed"])
    'did you mean guidance_weight? Known: guidance_weight, seed'
    """
    known = sorted(known)
    matches = get_close_matches(name, known, n=1)
    hint = f"did you mean {matches[0]}? " if matches else ""
    return f"{hint}Known: {', '.join(known)}"
