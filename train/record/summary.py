"""Summarise a finished run in a few lines, with what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from usjepa.train.record.history import History, StepTotals
    from usjepa.train.record.lines import ProbeLine, ValidationLine

_WAITING = 0.10
"""Share of a run's time spent waiting for data above which the store is too slow."""
_RISEN = 1.05
"""Ratio of the last validation loss to the lowest above which it has risen."""
_COLLAPSED = 0.5
"""Ratio of the last RankMe to the highest below which the features are collapsing."""
_UNUSABLE = 0.02
"""Share of images left out above which the masks do not fit the regions."""


def summary(history: History, epochs: int) -> list[str]:
    """Return the run in lines: its speed, its best epoch, and every sign that something should be changed.

    Args:
        history: of its log.
        epochs: of the recipe.
    """
    totals = history.totals
    if not totals.steps:
        return ["no step was taken: every image's region was too small for its masks"]
    rate = totals.images / max(totals.seconds, 1e-9)
    speed = f"{totals.steps:,} steps, {totals.images:,} images in {totals.seconds / 60:.1f} min: {rate:,.0f} images/s"
    return [speed, *_validation(history.checks, epochs), *_foreign(history), *_data(totals)]


def signs(history: History) -> list[str]:
    """Return every sign, in a run that goes on, that something should be changed."""
    checks = history.checks
    rise = [f"the validation loss {rise}" for rise in _rise([line["loss"] for line in checks], "after its lowest")]
    collapse = _collapse([line["rankme"] for line in checks if "rankme" in line])
    return [*rise, *collapse, *(_data(history.totals) if history.totals.steps else [])]


def _rise(losses: list[float], when: str) -> list[str]:
    """Return whether the validation loss rose after its lowest, as a clause."""
    if not losses or losses[-1] <= _RISEN * min(losses):
        return []
    by = 100 * (losses[-1] / min(losses) - 1)
    return [f"rose by {by:.0f} % {when}: use fewer epochs, more data, or a lower train.lr"]


def _collapse(ranks: list[float]) -> list[str]:
    if not ranks or ranks[-1] >= _COLLAPSED * max(ranks):
        return []
    return ["the features lost half of their rank on the way: the encoder is collapsing, lower train.lr"]


def _validation(checks: list[ValidationLine], epochs: int) -> list[str]:
    if not checks:
        return ["there is no validation loss: the last encoder is exported, and no figure says how good it is"]
    losses = [line["loss"] for line in checks]
    best = int(np.argmin(losses))
    notes = [f"lowest validation loss {losses[best]:.5f} after epoch {best + 1} of {epochs}: that encoder is exported"]
    if best + 1 == len(checks) and len(checks) > 1:
        notes.append("the loss was still falling at the end: more epochs (train.epochs) should help")
    return notes + [f"it {rise}" for rise in _rise(losses, "afterwards")] + _features(checks)


def _features(checks: list[ValidationLine]) -> list[str]:
    notes = []
    ranks = [line["rankme"] for line in checks if "rankme" in line]
    if ranks:
        notes.append(f"RankMe {ranks[0]:.1f} after the first epoch, {ranks[-1]:.1f} after the last")
        notes += _collapse(ranks)
    probes = [(line["epoch"] + 1, line["knn"]) for line in checks if "knn" in line]
    if probes:
        best = max(probes, key=lambda probe: probe[1])
        notes.append(
            f"k-NN on held-out groups: macro F1 {100 * probes[-1][1]:.1f} % at the end, best {100 * best[1]:.1f} % "
            f"after epoch {best[0]}"
        )
    return notes


def _foreign(history: History) -> list[str]:
    """Return what the probe on a foreign set found: the last, the best, and what the exported encoder has."""
    probes = [line for line in history.probes if line["epoch"] >= 0]
    if not probes:
        return []
    untrained = [line for line in history.probes if line["epoch"] < 0]
    last, best = probes[-1], max(probes, key=lambda line: line["macro_f1"])
    before = f"{_percent(untrained[0])} before training, " if untrained else ""
    notes = [
        f"probe on the foreign set: macro F1 {before}{_percent(last)} at the end, best {_percent(best)} after epoch "
        f"{best['epoch'] + 1}: the highest of {len(probes)} looks at {best['groups']} groups, so it flatters"
    ]
    if history.checks:
        lowest = min(history.checks, key=lambda line: line["loss"])["epoch"]
        notes += [
            f"the encoder of lowest validation loss has {_percent(line)} there: the difference is "
            f"{'within' if best['macro_f1'] - line['macro_f1'] <= line['macro_f1_sd'] else 'above'} one deviation"
            for line in probes
            if line["epoch"] == lowest != best["epoch"]
        ]
    if untrained and best["macro_f1"] <= untrained[0]["macro_f1"]:
        notes.append("no epoch beats the untrained weights there: the set asks for something else, or is too small")
    if len({line["set"] for line in history.probes}) > 1:
        notes.append("the foreign set changed on the way: its scores can't be compared over all epochs")
    return notes


def _percent(line: ProbeLine) -> str:
    return f"{100 * line['macro_f1']:.1f} ± {100 * line['macro_f1_sd']:.1f} %"


def _data(totals: StepTotals) -> list[str]:
    notes = []
    waited = totals.waited_s / max(totals.seconds, 1e-9)
    if waited > _WAITING:
        notes.append(
            f"{100 * waited:.0f} % of the time was spent waiting for the store: raise train.read_threads, or copy the "
            "store nearer (usjepa-cache plan measures it)"
        )
    share = totals.unusable / (totals.unusable + totals.images)
    if share > _UNUSABLE:
        notes.append(
            f"{100 * share:.1f} % of the images had too small a region for their masks and were left out: "
            "train.masks.min_patches or target_scale are too large for this grid"
        )
    return notes
