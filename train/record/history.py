"""Summarise the log of a run in memory that does not grow with its steps."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.train.record.lines import EndLine, Line, ProbeLine, StepLine, ValidationLine

RECENT = 100
"""Losses that are kept one by one."""
OF_TARGET = "loss of "
"""Before a target's name, in `History.series`."""
_POINTS, _FEWER = 2048, 512
"""Most points that the losses of all steps are reduced to, and each other number of the steps."""


@dataclass
class StepTotals:
    """Sums over the steps that had a usable image."""

    steps: int = 0
    images: int = 0
    unusable: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    """Seconds spent waiting for batches."""

    def add(self, line: StepLine) -> None:
        """Count a step."""
        self.steps += 1
        self.images += line["images"]
        self.unusable += line["unusable"]
        self.waited_s += line["data_wait_s"]
        if line["images_per_s"] > 0:
            self.seconds += line["images"] / line["images_per_s"]


class LossCurve:
    """The losses of all steps, or another number of theirs, as means over equally many steps, at most `most` of them.

    Up to `most` losses are kept as they are; then, and whenever the points are full again, two neighbours become one.
    """

    def __init__(self, most: int = _POINTS) -> None:
        self._most = most
        self.width = 1
        """Steps per point."""
        self._points: list[tuple[float, float]] = []
        self._open: list[tuple[float, float]] = []

    def add(self, step: float, loss: float) -> None:
        """Add the next step's loss."""
        self._open.append((step, loss))
        if len(self._open) < self.width:
            return
        self._points.append(_mean(self._open))
        self._open = []
        if len(self._points) == self._most:
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, self._most, 2)]
            self.width *= 2

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean step number and the mean loss of each point, float64 [n] each."""
        points = [*self._points, *([_mean(self._open)] if self._open else [])]
        steps, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
        return steps, losses

    def to_json(self) -> dict[str, Json]:
        """Return everything that `from_json` needs to go on to the same numbers."""
        return {"most": self._most, "width": self.width, "points": self._points, "open": self._open}

    @classmethod
    def from_json(cls, stored: dict[str, Json]) -> LossCurve:
        """Return the curve that `to_json` described."""
        curve = cls(int(stored["most"]))
        curve.width = int(stored["width"])
        curve._points = [(step, loss) for step, loss in stored["points"]]
        curve._open = [(step, loss) for step, loss in stored["open"]]
        return curve


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(loss for _, loss in points) / len(points)


def _numbers(line: StepLine) -> Iterator[tuple[str, float]]:
    """Yield learning rate, norm of the gradient, seconds, seconds waited for the batch, and each target's loss."""
    for name, value in (("lr", line.get("lr")), ("grad_norm", line.get("grad_norm"))):
        if value is not None:
            yield name, value
    if line["images_per_s"] > 0:
        yield "seconds", line["images"] / line["images_per_s"]
        yield "waited_s", line["data_wait_s"]
    for name, value in line.get("losses", {}).items():
        yield f"{OF_TARGET}{name}", value


class History:
    """What curve, page, summary and model card need of a log: some hundred kilobytes, however many steps it holds."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=RECENT)
        """Losses of the last steps."""
        self.checks: list[ValidationLine] = []
        """One line per epoch."""
        self.probes: list[ProbeLine] = []
        self.totals = StepTotals()
        self.curve = LossCurve()
        self.series: dict[str, LossCurve] = {}
        """Other numbers of the steps by name: see `_numbers`."""
        self.epochs = 0
        """Epochs begun."""
        self.steps = 0
        """Steps done, those that no line is left of among them."""

    def add(self, line: Line) -> None:
        """Take in the next line of the log."""
        self.epochs = line["epoch"] + 1
        if line["kind"] == "validation":
            self.checks.append(line)
            return
        if line["kind"] == "probe":
            self.probes.append(line)
            return
        self.steps = line["step"] + (line["steps"] if line["kind"] == "lost" else 1)
        if line["kind"] == "step" and line["loss"] is not None:
            self.recent.append(line["loss"])
            self.totals.add(line)
            self.curve.add(line["step"], line["loss"])
            for name, value in _numbers(line):
                if name not in self.series:
                    self.series[name] = LossCurve(_FEWER)
                self.series[name].add(line["step"], value)

    def ends(self) -> list[EndLine]:
        """Return the lines of epochs' ends in the order of the log."""
        return sorted([*self.checks, *self.probes], key=lambda line: line["step"])

    def to_json(self) -> dict[str, Json]:
        """Return the history for a checkpoint: with it, a log that was lost costs no more than its lines."""
        return {
            "recent": list(self.recent),
            "checks": self.checks,
            **({"probes": self.probes} if self.probes else {}),
            "totals": asdict(self.totals),
            "curve": self.curve.to_json(),
            "series": {name: curve.to_json() for name, curve in self.series.items()},
            "epochs": self.epochs,
            "steps": self.steps,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Json]) -> History:
        """Return the history that `to_json` described."""
        history = cls()
        history.recent.extend(stored["recent"])
        history.checks = list(stored["checks"])
        history.probes = list(stored.get("probes", ()))
        history.totals = StepTotals(**stored["totals"])
        history.curve = LossCurve.from_json(stored["curve"])
        # Checkpoints of earlier versions have none: these curves then begin where the run went on.
        history.series = {name: LossCurve.from_json(curve) for name, curve in stored.get("series", {}).items()}
        history.epochs, history.steps = int(stored["epochs"]), int(stored["steps"])
        return history
