"""Test the student's differences from other encoders, on classes, numbers and masks alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.report.document import Difference
from usjepa.evaluate.scores.bootstrap import Draws, verdicts
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.evaluate.scoring.evaluation import Results
    from usjepa.evaluate.scoring.inputs import Inputs


@dataclass(frozen=True)
class _Compared:
    """A score of the student and one of another encoder, in the same draws."""

    task: str
    other: str
    measure: str
    difference: float
    groups: int
    drawn_R: NDArray[np.float64]


def differences_of(inputs: Inputs, results: Results) -> list[Difference]:
    """Return the student minus each other encoder on each task: one family, corrected together."""
    pairs = [*_of_classes(inputs, results), *_of_numbers(results), *_of_dice(inputs, results)]
    tested = verdicts([pair.drawn_R for pair in pairs], [pair.groups for pair in pairs])
    return [
        Difference(
            task=pair.task,
            encoder=STUDENT,
            other=pair.other,
            difference=pair.difference,
            groups=pair.groups,
            interval=verdict.interval,
            p=verdict.p,
            p_holm=verdict.p_holm,
            real=verdict.real,
            measure=pair.measure,
        )
        for pair, verdict in zip(pairs, tested, strict=True)
    ]


def _of_classes(inputs: Inputs, results: Results) -> Iterator[_Compared]:
    """Yield differences in macro F1 of the linear probe."""
    for task in inputs.found.tasks:
        here = {one.record.encoder: one for one in results.scored if one.record.task == task.name}
        student = here.pop(STUDENT, None)
        groups = len(np.unique(task.groups[task.positions(TEST)]))
        for key, other in here.items():
            if student is None or student.drawn_R is None or other.drawn_R is None:
                continue
            difference = student.record.macro_f1.mean - other.record.macro_f1.mean
            yield _Compared(task.name, key, "macro_f1", difference, groups, student.drawn_R - other.drawn_R)


def _of_numbers(results: Results) -> Iterator[_Compared]:
    """Yield differences in the mean absolute error of ridge regression."""
    for result in results.regressed:
        here = {one.record.encoder: one for one in result.scored}
        student = here.pop(STUDENT, None)
        groups = len(np.unique(result.task.groups[result.task.positions(TEST)]))
        for key, other in here.items():
            if student is None or student.drawn_R is None or other.drawn_R is None:
                continue
            errors = [one.record.primary.measures["mae"].mean for one in (student, other)]
            drawn_R = student.drawn_R - other.drawn_R
            yield _Compared(result.task.name, key, "mae", errors[0] - errors[1], groups, drawn_R)


def _of_dice(inputs: Inputs, results: Results) -> Iterator[_Compared]:
    """Yield differences in the mean Dice."""
    for result in results.segmented:
        groups = len(np.unique(result.task.groups[result.task.positions(TEST)]))
        here = {one.encoder: one for one in result.scores}
        student = here.pop(STUDENT, None)
        if student is None or groups < 2 or not inputs.settings.bootstrap:
            continue
        draws = Draws(np.arange(groups), inputs.settings.bootstrap)
        ours_R = student.drawn(draws)
        for key, other in here.items():
            difference = student.dice.mean - other.dice.mean
            yield _Compared(result.task.name, key, "dice", difference, groups, ours_R - other.drawn(draws))
