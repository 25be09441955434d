"""A blind test: pairs of sample rows from unknown sources. The reader chooses, and is then compared with a metric.

test = BlindTest([Source("epoch 5", images, fid), Source("epoch 20", better_images, better_fid)])
test           # at the end of a cell: shown, with buttons
test.score()   # in a later one
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from ddpm_lib.errors import InputError
from ddpm_lib.evaluation import Interval
from ddpm_lib.frames import Picture, picture, picture_html, tiles
from ddpm_lib.live import OWN_KEYS, STREAM
from ddpm_lib.training import generator_for

SAME = "="  # the answer of a reader who cannot tell
ANSWERS = {"A": "A is better", "B": "B is better", SAME: "I cannot tell"}


@dataclass(frozen=True)
class Source:
    """Something that samples come from."""

    name: str  # what the reader hears at the end
    images: Tensor  # [n, 1, 28, 28] in [-1, 1]
    quality: Interval  # by the metric; lower is better


@dataclass(frozen=True)
class Pair:
    """One question: a row of samples of each of two sources."""

    a: Source
    b: Source
    rows: tuple[Tensor, Tensor]  # of A and B

    @property
    def metric_says(self) -> str:
        """ "A", "B", or `SAME` where the two intervals overlap."""
        if self.a.quality.high < self.b.quality.low:
            return "A"
        return "B" if self.b.quality.high < self.a.quality.low else SAME


@dataclass(frozen=True)
class Score:
    """How far a reader and the metric agree, in the pairs in which both have an opinion."""

    agreed: int
    decided: int
    chance: float  # the probability that tossing a coin agrees at least as often


def make_pairs(sources: Sequence[Source], count: int, shown: int = 10, seed: int = 0) -> list[Pair]:
    """Questions in random order: any two sources, either of them as A, with randomly chosen samples of each.

    No two sources meet again before all others have met.

    Args:
        sources: at least two.
        count: how many questions.
        shown: samples in a row, not more than each source has.
        seed: of all choices.

    Raises:
        InputError: there are fewer than two sources, or a source has fewer samples than are shown.
    """
    if len(sources) < 2:
        raise InputError(f"{len(sources)} sources; a blind test compares at least two")
    if scarce := [source.name for source in sources if len(source.images) < shown]:
        raise InputError(f"{scarce[0]} has fewer than {shown} samples; show fewer")
    generator = generator_for(seed, STREAM)

    def shuffled(n: int) -> list[int]:
        return torch.randperm(n, generator=generator).tolist()

    meetings = list(combinations(sources, 2))
    order = [index for _ in range(-(-count // len(meetings))) for index in shuffled(len(meetings))][:count]
    pairs = []
    for index in order:
        a, b = (meetings[index][side] for side in shuffled(2))
        pairs.append(Pair(a, b, tuple(one.images[shuffled(len(one.images))[:shown]] for one in (a, b))))
    return pairs


def score(pairs: Sequence[Pair], answers: Sequence[str | None]) -> Score:
    """Compares answers ("A", "B", `SAME`, None for no answer yet) with the metric."""
    both = [
        (answer, pair.metric_says)
        for pair, answer in zip(pairs, answers, strict=True)
        if answer in ("A", "B") and pair.metric_says != SAME
    ]
    agreed, decided = sum(ours == theirs for ours, theirs in both), len(both)
    return Score(agreed, decided, sum(math.comb(decided, k) for k in range(agreed, decided + 1)) / 2**decided)


class BlindTest:
    """The questions with buttons. Stored, they stay with folded answers, for which no kernel is needed.

    Its output holds three forms, and each place takes the first it knows: live widgets; HTML with every pair and its
    answer folded away; a PNG of the first pair.

    Args:
        sources, count, shown, seed: see `make_pairs`.
    """

    def __init__(self, sources: Sequence[Source], count: int = 10, shown: int = 10, seed: int = 0) -> None:
        self.pairs = make_pairs(sources, count, shown, seed)
        self.answers: list[str | None] = [None] * count
        self.place = 0  # of the question shown; count: the end
        self._view = widgets.HTML()
        self._buttons = {answer: widgets.Button(description=name) for answer, name in ANSWERS.items()}
        self._back = widgets.Button(description="back", icon="step-backward")
        for answer, button in self._buttons.items():
            button.on_click(lambda _, answer=answer: self.answer(answer))
        self._back.on_click(lambda _: self._go(self.place - 1))
        self.box = widgets.VBox([widgets.HBox([*self._buttons.values(), self._back]), self._view])
        self._go(0)

    def answer(self, answer: str) -> None:
        """Answers the question shown, and shows the next; after the last one, the result. Raises InputError."""
        if answer not in ANSWERS or self.place == len(self.pairs):
            raise InputError(f"{answer!r} is not an answer here; while questions are left, answer {', '.join(ANSWERS)}")
        self.answers[self.place] = answer
        self._go(self.place + 1)

    def score(self) -> Score:
        """What the answers so far are worth."""
        return score(self.pairs, self.answers)

    def _go(self, place: int) -> None:
        self.place = place
        ended = place == len(self.pairs)
        for button in self._buttons.values():
            button.disabled = ended
        self._back.disabled = place == 0
        self._view.value = self._result() if ended else picture_html(self._question(place), OWN_KEYS)

    def _question(self, place: int) -> Picture:
        rows = self.pairs[place].rows
        return picture(
            tiles(rows, row_labels=["A", "B"], scale=2),
            f"Pair {place + 1}: two rows of {len(rows[0])} samples, A above and B below.",
            f"pair {place + 1} of {len(self.pairs)}: which row comes nearer to real garments?",
        )

    def _result(self) -> str:
        rows = [
            f"<tr><td>{place}</td><td>{_told(pair.a)}</td><td>{_told(pair.b)}</td><td>{answer}</td>"
            f"<td>{pair.metric_says}</td></tr>"
            for place, (pair, answer) in enumerate(zip(self.pairs, self.answers, strict=True), start=1)
        ]
        head = "<tr><th>pair</th><th>A</th><th>B</th><th>you</th><th>the metric</th></tr>"
        table = f"<table style='border-spacing:1.5em 0'>{head}{''.join(rows)}</table>"
        return f"<div role='status'><p>{_sentence(self.score())}</p>{table}</div>"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        first = self._question(0)
        folded = [
            f"{picture_html(self._question(place))}<details style='margin-bottom:1.5em'><summary>what they were"
            f"</summary>A: {_told(pair.a)}. B: {_told(pair.b)}. The metric says: {pair.metric_says}</details>"
            for place, pair in enumerate(self.pairs)
        ]
        note = "<p><small>Choose before you unfold. Run this cell for buttons that count.</small></p>"
        data = {
            **self.box._repr_mimebundle_(),
            "text/html": f"<div>{note}{''.join(folded)}</div>",
            "image/png": first.png,
            "text/plain": f"{first.alt} {first.caption}",
        }
        return data, {"image/png": {"alt": first.alt}}


def _told(source: Source) -> str:
    value = source.quality
    return f"{html.escape(source.name)} ({value.value:.2f}, {value.low:.2f} to {value.high:.2f})"


def _sentence(result: Score) -> str:
    return (
        f"You and the metric agree in {result.agreed} of the {result.decided} pairs in which both of you decided. "
        f"Tossing a coin does as well or better with probability {result.chance:.2g}."
    )
