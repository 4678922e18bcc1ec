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
    """Return a PNG of the training loss and its running mean, and the validation loss of every epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    if history.totals.steps:
        _draw_training(axes, history.curve, steps_per_epoch)
    if history.checks:
        _draw_validation(axes, history.checks)
    axes.set_xlabel("epoch")
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
