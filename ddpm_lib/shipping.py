"""Puts a recorded run into `ddpm_lib/pretrained`: weights in half precision, records, pictures, a card. For authors."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from ddpm_lib.checkpoints import save_tensors, with_prefix
from ddpm_lib.errors import InputError, nearest
from ddpm_lib.evaluation import Interval, noise_floor
from ddpm_lib.files import atomic_write
from ddpm_lib.machine import cpu_name
from ddpm_lib.plotting import png_bytes
from ddpm_lib.posthoc import Snapshot, posthoc_weights, power_profile, power_snapshots
from ddpm_lib.pretrained import FOLDER, MODELS, samples_file, snapshot_prefix, snapshots_file, weights_file
from ddpm_lib.records import RECORDS, Record, mean_losses, read_records, step_of_epoch, strip_path
from ddpm_lib.run_files import load_model, read_log, run_config
from ddpm_lib.training import choose_precision

EPOCHS = (5, 10, 15)  # the report's figures 3 to 5; the last epoch is shipped as well
# Which (sigma_rel, epoch) are shipped to make averages of other widths from. A narrow average needs details of the last
# epochs only; a wide one reaches back, but it is smooth. So: both widths at the end, before it the wide one.
SNAPSHOTS = {"cfg": ((0.10, 7), (0.10, 12), (0.10, 17), (0.05, 20), (0.10, 20))}
CHECKED_WIDTHS = (0.03, 0.05, 0.07, 0.10, 0.15, 0.20)
USES = {
    "basic": "The report's Basic: to sample without labels, and to compare with guidance and averaging.",
    "cfg": "The report's +CFG (raw weights) and +CFG+EMA (averaged weights), from one training.",
    "fast": "The model of the sliders, and of one's own in the shortest time: near cfg_ema for a third of its images.",
}


def ship(run: str | Path, recipe: str, commit: str | None = None, folder: Path = FOLDER) -> list[Path]:
    """Copies what the course needs of a finished, recorded run into the package.

    Args:
        run: the folder of the run, evaluated by `records.record_run`.
        recipe: "basic", "cfg" or "fast".
        commit: the version of the code that trained it; None: the one checked out now.
        folder: where to.

    Returns:
        The files written: weights of epochs 5, 10, 15 and the last, snapshots, records of all seeds, samples, card.

    Raises:
        InputError: an unknown recipe, or the run kept no weights of an epoch in `SNAPSHOTS`.
        CheckpointError: the run is not recorded, or kept no weights.
    """
    if recipe not in USES:
        raise InputError(f"there is no recipe {recipe!r}; {nearest(recipe, USES)}")
    run, config, records = Path(run), run_config(run), read_records(Path(run) / RECORDS)
    commit = commit or _commit()
    losses = mean_losses(run)
    last = max(losses)
    written = []
    for name, (of, weights) in MODELS.items():
        if of != recipe:
            continue
        for step, (epoch, _) in losses.items():
            if step == last or epoch in EPOCHS:
                path = folder / weights_file(recipe, weights, f"{round(epoch):02d}")
                half = {key: value.half() for key, value in load_model(run, step, weights).state_dict().items()}
                metadata = {"kind": "weights", "config": config.to_dict(), "step": step, "weights": weights}
                save_tensors(path, half, {**metadata, "model": name, "commit": commit})
                written.append(path)
    more = ""
    if recipe in SNAPSHOTS and config.power_emas:
        path, line = ship_snapshots(run, recipe, commit, folder)
        written, more = [*written, path], line
    for source in sorted(run.glob("records*.jsonl")):
        written.append(folder / f"{recipe}_{source.name}")
        shutil.copyfile(source, written[-1])
    for kind in set(map(_kind, records)):
        strips = [strip_path(run, record) for record in records if _kind(record) == kind]
        path = folder / samples_file(recipe, *kind)
        atomic_write(path, _stack(strips))
        written.append(path)
    atomic_write(folder / f"{recipe}.md", card(run, recipe, records, commit, more).encode())
    return [*written, folder / f"{recipe}.md"]


def ship_snapshots(run: Path, recipe: str, commit: str, folder: Path = FOLDER) -> tuple[Path, str]:
    """Writes the power-function averages in `SNAPSHOTS` to one file.

    Returns:
        The file, and what the card says about it: how much weights rebuilt from these few differ from weights
        rebuilt from all that the run kept.

    Raises:
        InputError: the run kept no weights of such an epoch, or no power-function averages.
    """
    kept = power_snapshots(run)
    few = {key: kept[key] for key in ((width, step_of_epoch(run, epoch)) for width, epoch in SNAPSHOTS[recipe])}
    few = {key: {name: value.half() for name, value in weights.items()} for key, weights in few.items()}
    tensors: dict[str, Tensor] = {}
    for key, weights in few.items():
        tensors |= with_prefix(snapshot_prefix(*key), weights)
    metadata = {"kind": "snapshots", "config": run_config(run).to_dict(), "snapshots": list(few), "commit": commit}
    path = folder / snapshots_file(recipe)
    save_tensors(path, tensors, metadata)
    errors = ", ".join(f"{width}: {error:.2g}" for width, error in rebuilding_errors(few, kept).items())
    names = ", ".join(f"{width} at epoch {epoch}" for width, epoch in SNAPSHOTS[recipe])
    line = f"""
- **Snapshots** of power-function averages, in half precision: {names}. Weights rebuilt from these {len(few)} and
  from all {len(kept)} that were kept differ, relative to their size, by (width: difference) {errors}."""
    return path, line


def rebuilding_errors(
    few: Mapping[Snapshot, Mapping[str, Tensor]], all_kept: Mapping[Snapshot, Mapping[str, Tensor]]
) -> dict[float, float]:
    """How far averages rebuilt from few snapshots are from those rebuilt from all; by relative width.

    The norm of the difference over the norm of all weights, at the last step.
    """
    last = max(step for _, step in few)
    errors = {}
    for width in CHECKED_WIDTHS:
        ours, theirs = (posthoc_weights(snapshots, power_profile(width, last)) for snapshots in (few, all_kept))
        ours, theirs = (torch.cat([value.flatten() for value in weights.values()]) for weights in (ours, theirs))
        errors[width] = float((ours - theirs).norm() / theirs.norm())
    return errors


def card(run: Path, recipe: str, records: Sequence[Record], commit: str, more: str = "") -> str:
    """What one has to know about a trained model, as Markdown: recipe, code, machine, time, quality, use; and more."""
    config, log, floor = run_config(run), read_log(run), noise_floor(records[0].evaluation.n)
    seconds = statistics.median(config.batch_size / report.images_per_second for report in log) * len(log)
    precision = choose_precision(config.precision, torch.device("cpu"))
    how = records[-1].evaluation
    shown = [record for record in records if record.epoch in EPOCHS or record.step == records[-1].step]
    rows = []
    for record in shown:
        measured = record.evaluation
        cells = [_show(measured.fid), _show(measured.kid, 4), _show(measured.accuracy, 3)]
        rows.append(f"| {record.epoch:g} | {record.weights} | {measured.guidance_weight:g} | {' | '.join(cells)} |")
    options = "".join(f", {key}={value}" for key, value in how.options.items())
    return f"""# {recipe}: {", ".join(name for name, (of, _) in MODELS.items() if of == recipe)}

{USES[recipe]}

- **Trained** for {config.epochs:g} epochs, {len(log):,} steps, in {precision}, by `ddpm train {recipe}` at commit
  {commit}.
- **Machine and time**: {cpu_name()}, {torch.get_num_threads()} threads; {seconds / 60:.0f} minutes (the median
  step's time, times the steps).
- **Measured** on {how.n:,} samples, all from the same noise: {how.sampler}, {how.steps} evaluations{options}, in
  {how.computed_in}, by the judge {how.evaluator[:12]}…. In brackets 95 % intervals over draws. As many real
  test images score FID {_show(floor.fid)}.
- **Stored** in half precision, measured before rounding. All evaluations are in `{recipe}_{RECORDS}`.{more}

| epoch | weights | guidance weight | FID | KID | accuracy |
|---|---|---|---|---|---|
{chr(10).join(rows)}

The recipe:

```yaml
{yaml.safe_dump(config.to_dict(), sort_keys=False).strip()}
```
"""


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _kind(record: Record) -> tuple[str, float]:
    return record.weights, record.evaluation.guidance_weight


def _stack(strips: Sequence[Path]) -> bytes:
    return png_bytes(Image.fromarray(np.vstack([np.array(Image.open(path)) for path in strips])))


def _show(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return "–"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
