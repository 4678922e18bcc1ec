"""Find where the run's encoder stands on each task, among others and above the floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.evaluate.encoders.base import STUDENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.evaluate.report.document import Difference, Document
    from usjepa.evaluate.scores.records import Interval

MACRO_F1, MAE, DICE = "macro_f1", "mae", "dice"


@dataclass(frozen=True)
class Row:
    """One encoder's score on a task."""

    encoder: str
    title: str
    value: float
    """A share, or an error in the task's unit."""
    interval: Interval | None

    @property
    def ours(self) -> bool:
        """Whether it is the run's own encoder."""
        return self.encoder == STUDENT


@dataclass(frozen=True)
class Standing:
    """All scores of a task, the best first."""

    task: str
    measure: str
    """`MACRO_F1` and `DICE` are shares, the higher the better; `MAE` an error, the lower the better."""
    unit: str
    """Of errors; "" where the data does not say."""
    rows: tuple[Row, ...]
    floor: float
    """What is reached without looking at any frame."""
    differences: tuple[Difference, ...]
    """Of the run's encoder from others, on this task."""
    groups: int | None = None
    """Test patients or clips; None where the document does not say."""

    @property
    def ours(self) -> Row:
        """The run's own encoder."""
        return next(row for row in self.rows if row.ours)

    @property
    def best(self) -> Row | None:
        """The best of the others; None where there are none."""
        return next((row for row in self.rows if not row.ours), None)

    @property
    def difference(self) -> Difference | None:
        """The tested difference from the best of the others; None where none was tested."""
        return next((one for one in self.differences if self.best and one.other == self.best.encoder), None)

    @property
    def verdict(self) -> int:
        """1: really better than the best of the others; -1: really worse; 0: neither is shown."""
        found = self.difference
        if found is None or not found.real:
            return 0
        return 1 if found.better else -1


def standings(document: Document) -> list[Standing]:
    """Return the standing on each task that the run's encoder was scored on: classes, then numbers, then masks."""
    found = [*_of_classes(document), *_of_numbers(document), *_of_masks(document)]
    return [one for one in found if any(row.ours for row in one.rows)]


def _of_classes(document: Document) -> Iterator[Standing]:
    for task in document.tasks:
        rows = [
            Row(s.encoder, document.title(s.encoder), s.macro_f1.mean, s.macro_f1.interval)
            for s in document.ranked(task.name)
        ]
        yield _standing(document, task.name, MACRO_F1, rows, task.floor.macro_f1, groups=task.counts["test"].groups)


def _of_numbers(document: Document) -> Iterator[Standing]:
    for task in document.regression.tasks:
        rows = []
        for s in document.regression.ranked(task.name):
            error = s.primary.measures["mae"]
            rows.append(Row(s.encoder, document.title(s.encoder), error.mean, error.interval))
        yield _standing(
            document, task.name, MAE, rows, task.floor.measures["mae"].mean, task.unit, task.counts["test"].groups
        )


def _of_masks(document: Document) -> Iterator[Standing]:
    for task in document.segmentation.tasks:
        scores = [s for s in document.segmentation.scores if s.task == task.name]
        rows = [
            Row(s.encoder, document.title(s.encoder), s.dice.mean, s.dice.interval)
            for s in sorted(scores, key=lambda s: -s.dice.mean)
        ]
        yield _standing(
            document, task.name, DICE, rows, task.floor.mean, groups=task.test.groups if task.test else None
        )


def _standing(
    document: Document,
    task: str,
    measure: str,
    rows: Sequence[Row],
    floor: float,
    unit: str = "",
    groups: int | None = None,
) -> Standing:
    differences = (one for one in document.differences if one.task == task and one.measure == measure)
    return Standing(task, measure, unit, tuple(rows), floor, tuple(differences), groups)
