"""What a person should know, and do, when a run has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from usjepa.train.record.log import Line

_WAITING = 0.10
"""Share of a run's time waiting for data above which the store is too slow."""
_RISEN = 1.05
_COLLAPSED = 0.5
_UNUSABLE = 0.02


def summary(lines: list[Line], epochs: int) -> list[str]:
    """Return the run in lines: where its best epoch lies, and every sign that something is to be done."""
    steps = [line for line in lines if line["kind"] == "step" and line["loss"] is not None]
    checks = [line for line in lines if line["kind"] == "validation"]
    if not steps:
        return ["no step was taken: every image's region was too small for its masks"]
    images, seconds = sum(line["images"] for line in steps), _seconds(steps)
    told = [f"{len(steps):,} steps, {images:,} images in {seconds / 60:.1f} min: {images / max(seconds, 1e-9):,.0f}/s"]
    return [*told, *_validation(checks, epochs), *_data(steps, seconds)]


def _seconds(steps: list[Line]) -> float:
    return float(sum(line["images"] / line["images_per_s"] for line in steps if line["images_per_s"] > 0))


def _validation(checks: list[Line], epochs: int) -> list[str]:
    if not checks:
        return ["nothing was held out: the exported encoder is the last one, and no figure says how good it is"]
    losses = [line["loss"] for line in checks]
    best = int(np.argmin(losses))
    told = [f"lowest validation loss {losses[best]:.5f} after epoch {best + 1} of {epochs}: that encoder is exported"]
    if best + 1 == len(checks) and len(checks) > 1:
        told.append("the loss was still falling at the end: more epochs (train.epochs) should help")
    if losses[-1] > _RISEN * losses[best]:
        told.append(
            f"it rose by {100 * (losses[-1] / losses[best] - 1):.0f} % afterwards: fewer epochs, more data, or a lower "
            "train.lr"
        )
    return told + _features(checks)


def _features(checks: list[Line]) -> list[str]:
    told = []
    ranks = [line["rankme"] for line in checks if "rankme" in line]
    if ranks:
        told.append(f"RankMe {ranks[0]:.1f} after the first epoch, {ranks[-1]:.1f} after the last")
        if ranks[-1] < _COLLAPSED * max(ranks):
            told.append("the features lost half of their rank on the way: the encoder is collapsing, lower train.lr")
    probes = [(line["epoch"] + 1, line["knn"]) for line in checks if "knn" in line]
    if probes:
        best = max(probes, key=lambda probe: probe[1])
        told.append(
            f"k-NN on held-out groups: macro F1 {100 * probes[-1][1]:.1f} % at the end, best {100 * best[1]:.1f} % "
            f"after epoch {best[0]}"
        )
    return told


def _data(steps: list[Line], seconds: float) -> list[str]:
    told = []
    waited = sum(line["data_wait_s"] for line in steps) / max(seconds, 1e-9)
    if waited > _WAITING:
        told.append(
            f"{100 * waited:.0f} % of the time was spent waiting for the store: raise train.read_threads, or copy the "
            "store nearer (usjepa-cache plan measures it)"
        )
    unusable = sum(line["unusable"] for line in steps)
    share = unusable / (unusable + sum(line["images"] for line in steps))
    if share > _UNUSABLE:
        told.append(
            f"{100 * share:.1f} % of the images had too small a region for their masks and were left out: "
            "train.masks.min_patches or target_scale are too large for this grid"
        )
    return told
