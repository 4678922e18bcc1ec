"""Define what is asked of two reports, and what is told of their differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from usjepa.evaluate.probes.base import PRIMARY
from usjepa.evaluate.probes.ridge import RIDGE
from usjepa.evaluate.report.text import aligned_left, plain_number
from usjepa.evaluate.scores.bootstrap import LEVEL
from usjepa.evaluate.scores.regression import LOWER_IS_BETTER
from usjepa.evaluate.scores.regression import MEASURES as OF_NUMBERS

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.evaluate.scores.records import Interval

OF_CLASSES = ("macro_f1", "balanced_accuracy")
"""What can be computed again from the predictions of classes."""
OF_MASKS = ("dice",)
MEASURES = (*OF_CLASSES, *OF_NUMBERS, *OF_MASKS)
HEAD = "segmentation"
"""Name of the head that finds masks, as in `scores.csv`."""


@dataclass(frozen=True)
class Question:
    """Which scores of two reports are compared."""

    probe: str | None = None
    """Name of a probe that both reports hold; None: the linear probe, ridge regression, and the head for masks."""
    measure: str | None = None
    """One of `MEASURES`; None: macro F1, mean absolute error, and Dice."""
    draws: int = 10_000
    """Of the test groups, with replacement."""
    encoders: tuple[str, str] | None = None
    """Keys of the first report's encoder and of the second's; None: each with its namesake."""

    @property
    def of_classes(self) -> tuple[str, str] | None:
        """Probe and measure that are compared on classes; None: nothing is."""
        return self._of(OF_CLASSES, PRIMARY)

    @property
    def of_numbers(self) -> tuple[str, str] | None:
        """Probe and measure that are compared on numbers; None: nothing is."""
        return self._of(OF_NUMBERS, RIDGE)

    @property
    def of_masks(self) -> bool:
        """Whether Dice is compared."""
        return self.probe in (None, HEAD) and self._of(OF_MASKS, HEAD) is not None

    def _of(self, measures: tuple[str, ...], probe: str) -> tuple[str, str] | None:
        if self.measure is not None and self.measure not in measures:
            return None
        return self.probe or probe, self.measure or measures[0]


@dataclass(frozen=True)
class EncoderDifference:
    """The second report's score minus the first's."""

    task: str
    encoder: str
    measure: str
    unit: str
    """Of the numbers; "" for shares, and where it is not known."""
    first: float
    second: float
    difference: float
    groups: int
    """Test groups that it rests on."""
    interval: Interval | None
    p: float
    p_holm: float
    real: bool

    def cells(self) -> list[str]:
        """Return a line of the table: shares in percent, numbers in their unit, and a verdict in words."""
        better = "second is better" if (self.difference > 0) != (self.measure in LOWER_IS_BETTER) else "first is better"
        low, high = self.interval or (float("nan"), float("nan"))
        return [
            self.task,
            self.encoder,
            f"{self.measure}{f', {self.unit}' if self.unit else ''}",
            self._shown(self.first),
            self._shown(self.second),
            f"{self._signed(self.difference)} [{self._signed(low)}, {self._signed(high)}]",
            f"{self.p_holm:.3g}",
            f"real: {better}" if self.real else "not shown to differ",
        ]

    def _shown(self, value: float) -> str:
        return plain_number(value, self.measure) if self.measure in OF_NUMBERS else f"{100 * value:.1f}"

    def _signed(self, value: float) -> str:
        return f"{value:+.3g}" if self.measure in OF_NUMBERS else f"{100 * value:+.1f}"


@dataclass(frozen=True)
class Comparison:
    """The tested differences between two reports."""

    differences: list[EncoderDifference]
    notes: list[str]
    """What was not compared and why, and what differs beside the encoders."""

    def to_json(self) -> dict[str, Json]:
        """Return the comparison for a JSON file."""
        return {"level": LEVEL, "differences": [asdict(one) for one in self.differences], "notes": self.notes}

    def as_text(self) -> str:
        """Return lines for a terminal."""
        head = ["task", "encoder", "measure", "first", "second", "difference [95 %]", "p (Holm)", "verdict"]
        lines = [head, *[one.cells() for one in self.differences]]
        table = aligned_left(lines) if self.differences else ["Nothing to compare."]
        return "\n".join([*table, *[f"note: {note}" for note in self.notes]])
