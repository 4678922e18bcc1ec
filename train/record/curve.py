"""Draws the losses of a run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.storage.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.train.record.log import Line

_SMOOTHED = 50
"""Points that the smoothed training loss is drawn with, at most."""


def draw_curve(lines: list[Line], steps_per_epoch: int, path: Path) -> None:
    """Write `curve.png`: training loss of every step and its running mean, validation loss of every epoch."""
    from matplotlib.figure import Figure

    steps = [line for line in lines if line["kind"] == "step" and line["loss"] is not None]
    checks = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    if steps:
        epoch = np.array([(line["step"] + 1) / steps_per_epoch for line in steps])
        loss = np.array([line["loss"] for line in steps])
        axes.plot(epoch, loss, color="0.8", linewidth=0.8, label="training, each step")
        width = max(1, len(loss) // _SMOOTHED)
        places = np.arange(len(loss) // width) * width
        mean = np.add.reduceat(loss, places)[: len(places)] / np.diff(np.r_[places, len(loss)])
        centre = np.add.reduceat(epoch, places)[: len(places)] / np.diff(np.r_[places, len(loss)])
        axes.plot(centre, mean, color="C0", linewidth=1.6, label="training, mean")
    if checks:
        ends, losses = [line["epoch"] + 1 for line in checks], [line["loss"] for line in checks]
        axes.plot(ends, losses, color="C1", marker="o", markersize=3, label="validation, held-out groups")
        lowest = int(np.argmin(losses))
        axes.plot(ends[lowest], losses[lowest], "o", color="C3", markersize=6, label=f"lowest: {losses[lowest]:.4g}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if steps or checks:
        axes.legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_durably(path, picture.getvalue())
