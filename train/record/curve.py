"""Draw the losses of a run as a picture, `curve.png`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from usjepa.train.record.history import History, LossCurve
    from usjepa.train.record.lines import ValidationLine

_SMOOTHED = 50
"""Most points that the smoothed training loss is drawn with."""


def draw_curve(history: History, steps_per_epoch: int) -> bytes:
    """Return a PNG of the training loss and its running mean, the validation loss of every epoch, and the probes."""
    from matplotlib.figure import Figure

    probed = bool(history.probes) or any("knn" in line for line in history.checks)
    figure = Figure(figsize=(7, 6 if probed else 4), dpi=120, layout="constrained")
    axes, *below = figure.subplots(2 if probed else 1, sharex=True, squeeze=False)[:, 0]
    if history.totals.steps:
        _draw_training(axes, history.curve, steps_per_epoch)
    if history.checks:
        _draw_validation(axes, history.checks)
    for lower in below:
        _draw_probes(lower, history)
    (axes, *below)[-1].set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if history.totals.steps or history.checks:
        axes.legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_training(axes: Axes, curve: LossCurve, steps_per_epoch: int) -> None:
    step, loss = curve.points()
    epoch = (step + 1) / steps_per_epoch
    label = "training, each step" if curve.width == 1 else f"training, means of {curve.width} steps"
    axes.plot(epoch, loss, color="0.8", linewidth=0.8, label=label)
    width = max(1, len(loss) // _SMOOTHED)
    places = np.arange(len(loss) // width) * width
    mean = np.add.reduceat(loss, places)[: len(places)] / np.diff(np.r_[places, len(loss)])
    centre = np.add.reduceat(epoch, places)[: len(places)] / np.diff(np.r_[places, len(loss)])
    axes.plot(centre, mean, color="C0", linewidth=1.6, label="training, mean")


def _draw_validation(axes: Axes, checks: list[ValidationLine]) -> None:
    ends, losses = [line["epoch"] + 1 for line in checks], [line["loss"] for line in checks]
    axes.plot(ends, losses, color="C1", marker="o", markersize=3, label="validation, held-out groups")
    lowest = int(np.argmin(losses))
    axes.plot(ends[lowest], losses[lowest], "o", color="C3", markersize=6, label=f"lowest: {losses[lowest]:.4g}")


def _draw_probes(axes: Axes, history: History) -> None:
    own = [line for line in history.checks if "knn" in line]
    if own:
        ends, scores = [line["epoch"] + 1 for line in own], [line["knn"] for line in own]
        axes.plot(ends, scores, color="C1", marker="o", markersize=3, label="k-NN, held-out groups of the store")
    if history.probes:
        ends = [line["epoch"] + 1 for line in history.probes]
        scores, sds = ([line[name] for line in history.probes] for name in ("macro_f1", "macro_f1_sd"))
        axes.errorbar(
            ends, scores, sds, color="C2", marker="o", markersize=3, label="probe, foreign set (± 1 deviation)"
        )
        axes.plot(ends, [line["knn"] for line in history.probes], color="C2", linestyle=":", label="k-NN, foreign set")
        best = max(history.probes, key=lambda line: (line["epoch"] >= 0, line["macro_f1"]))
        axes.plot(
            best["epoch"] + 1, best["macro_f1"], "o", color="C3", markersize=6, label=f"best: {best['macro_f1']:.4g}"
        )
    axes.set_ylabel("macro F1")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
