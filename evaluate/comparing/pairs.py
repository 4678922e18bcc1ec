"""Pair two scores on one task in the same draws of its test patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import digest_of
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS, LEAST_GROUPS, Draws
from usjepa.evaluate.scores.metrics import score, unpacked
from usjepa.evaluate.scores.regression import drawn_measures, mean_by_name, regression_measures, unpacked_floats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.evaluate.comparing.comparison import Question
    from usjepa.evaluate.report.document import Document, SegmentationTask, TaskRecord
    from usjepa.evaluate.report.numbers.records import RegressionTask
    from usjepa.evaluate.scoring.segmentation import SegmentationScores

Reports = tuple["Document", "Document"]


@dataclass(frozen=True)
class Pair:
    """Two scores on one task."""

    task: str
    encoder: str
    measure: str
    unit: str
    first: float
    second: float
    groups: int
    drawn_R: NDArray[np.float64]
    """The second minus the first in each draw."""


Found = tuple[list[Pair], list[str]]
"""Pairs, and what was not compared and why."""


def pairs_of(reports: Reports, question: Question) -> Found:
    """Return every pair of scores that a question asks for."""
    pairs: list[Pair] = []
    notes: list[str] = []
    parts = [_classes(reports, question), _numbers(reports, question), _masks(reports, question)]
    for found, reasons in (one for part in parts for one in part):
        pairs += found
        notes += reasons
    return pairs, notes


def _classes(reports: Reports, question: Question) -> Iterator[Found]:
    """Yield what is compared on each classification task."""
    if question.of_classes is None:
        return
    probe, measure = question.of_classes
    theirs = {task.name: task for task in reports[1].tasks}
    for task in reports[0].tasks:
        other = theirs.get(task.name)
        if other is None or (why := _other_classes(task, other)):
            yield [], [f"{task.name}: not compared, {_NO_TASK if other is None else why}."]
            continue
        groups = unpacked(task.test.groups)
        yield [], _warnings(task.name, len(np.unique(groups)), task.identity, other.identity)
        truth, draws = unpacked(task.test.labels), Draws(groups, question.draws)

        def read(
            report: Document, key: str, task: TaskRecord = task, truth: NDArray[np.int64] = truth, draws: Draws = draws
        ) -> tuple[float, NDArray[np.float64]] | str:
            scores = report.find(task.name, key)
            if scores is None or probe not in scores.probes:
                return _no_probe(probe) if scores is not None else ""
            made = np.stack([unpacked(line) for line in scores.probes[probe].predicted])
            each = [getattr(score(truth, one, len(task.classes)), measure) for one in made]
            return float(np.mean(each)), draws.of_predictions(truth, made, len(task.classes))[measure]

        yield _paired(task.name, measure, "", draws.groups, reports, question, read)


def _numbers(reports: Reports, question: Question) -> Iterator[Found]:
    """Yield what is compared on each regression task."""
    if question.of_numbers is None:
        return
    probe, measure = question.of_numbers
    theirs = {task.name: task for task in reports[1].regression.tasks}
    for task in reports[0].regression.tasks:
        other = theirs.get(task.name)
        if other is None or (why := _other_numbers(task, other)):
            yield [], [f"{task.name}: not compared, {_NO_TASK if other is None else why}."]
            continue
        groups = unpacked(task.test.groups)
        yield [], _warnings(task.name, len(np.unique(groups)), task.identity, other.identity)
        truth, draws = unpacked_floats(task.test.values), Draws(groups, question.draws)

        def read(
            report: Document,
            key: str,
            task: RegressionTask = task,
            truth: NDArray[np.float64] = truth,
            draws: Draws = draws,
        ) -> tuple[float, NDArray[np.float64]] | str:
            scores = report.regression.find(task.name, key)
            if scores is None or probe not in scores.probes:
                return _no_probe(probe) if scores is not None else ""
            made = np.stack([unpacked_floats(line) for line in scores.probes[probe].predicted])
            each = mean_by_name([regression_measures(truth, one) for one in made])
            if measure not in each:
                return scores.probes[probe].undefined or f"{measure} is undefined"
            return float(np.mean(each[measure])), drawn_measures(draws, truth, made)[measure]

        unit = task.unit if measure in ("mae", "rmse") else ""
        yield _paired(task.name, measure, unit, draws.groups, reports, question, read)


def _masks(reports: Reports, question: Question) -> Iterator[Found]:
    """Yield what is compared on each segmentation task."""
    if not question.of_masks:
        return
    theirs = {task.name: task for task in reports[1].segmentation.tasks}
    for task in reports[0].segmentation.tasks:
        other = theirs.get(task.name)
        if other is None or (why := _other_masks(task, other)):
            yield [], [f"{task.name}: not compared, {_NO_TASK if other is None else why}."]
            continue
        groups = 0 if task.test is None else task.test.groups
        yield [], _warnings(task.name, groups, task.identity, other.identity)
        draws = Draws(np.arange(groups), question.draws)

        def read(
            report: Document, key: str, name: str = task.name, draws: Draws = draws
        ) -> tuple[float, NDArray[np.float64]] | str:
            found: list[SegmentationScores] = [
                one for one in report.segmentation.scores if (one.task, one.encoder) == (name, key)
            ]
            return (found[0].dice.mean, found[0].drawn(draws)) if found else ""

        yield _paired(task.name, "dice", "", groups, reports, question, read)


def _paired(
    task: str,
    measure: str,
    unit: str,
    groups: int,
    reports: Reports,
    question: Question,
    read: Callable[[Document, str], tuple[float, NDArray[np.float64]] | str],
) -> Found:
    """Return the pairs on one task.

    Args:
        task: its name.
        measure: what is compared.
        unit: of the measure.
        groups: test groups.
        reports: both.
        question: which encoders.
        read: gives an encoder's score and its value in each draw; or why there is none, "" where it was not scored.
    """
    pairs, notes = [], []
    for keys in [question.encoders] if question.encoders else [(name, name) for name in reports[0].encoders]:
        name = keys[0] if keys[0] == keys[1] else " | ".join(keys)
        both = list(zip(reports, keys, strict=True))
        known = [one.encoders[key].identities.get(task) for one, key in both if key in one.encoders]
        if len(known) < len(both) or None in known:
            continue
        if digest_of(known[0]) == digest_of(known[1]):
            notes.append(f"{task}: {name} is the same in both: nothing to compare.")
            continue
        made = [read(one, key) for one, key in both]
        reasons = [one for one in made if isinstance(one, str)]
        if reasons:
            notes += [f"{task}: {name} is not compared, {reason}." for reason in reasons[:1] if reason]
            continue
        (first, first_R), (second, second_R) = (one for one in made if not isinstance(one, str))
        pairs.append(Pair(task, name, measure, unit, first, second, groups, second_R - first_R))
    return pairs, notes


_NO_TASK = "the second report has no task of that name"


def _no_probe(probe: str) -> str:
    return f"a report has no {probe} scores of it"


def _other_classes(one: TaskRecord, other: TaskRecord) -> str:
    """Return why two reports' tasks can't be compared; "" if they can."""
    if one.classes != other.classes:
        return "its classes differ"
    if one.unit != other.unit:
        return f"one report scores each {one.unit}, the other each {other.unit}"
    return _OTHER_TEST if one.test != other.test else ""


def _other_numbers(one: RegressionTask, other: RegressionTask) -> str:
    if (one.quantity, one.unit) != (other.quantity, other.unit):
        return "its quantity or unit differs"
    if one.scored != other.scored:
        return f"one report scores each {one.scored}, the other each {other.scored}"
    return _OTHER_TEST if one.test != other.test else ""


def _other_masks(one: SegmentationTask, other: SegmentationTask) -> str:
    if one.test is None or other.test is None:
        return "a report of an earlier version keeps no Dice by patient; make it again"
    if one.classes != other.classes:
        return "its classes differ"
    if one.floor.classes.keys() != other.floor.classes.keys():
        return "a report of an earlier version counts classes that no test mask holds; make it again"
    return "its test frames differ in content, masks or groups" if one.test != other.test else ""


_OTHER_TEST = "its test frames differ in content, number, labels or groups"


def _warnings(task: str, groups: int, first: dict[str, Json], second: dict[str, Json]) -> list[str]:
    notes = []
    if groups < FEW_GROUPS:
        what = "too few to call any difference real" if groups < LEAST_GROUPS else "few: p-values are too small"
        notes.append(f"{task}: {groups} test groups are {what}.")
    if first["store"] != second["store"]:
        notes.append(f"{task}: the frames lie in two stores, whose pixels may differ; labels and groups are equal.")
    if first["frames"] != second["frames"]:
        notes.append(f"{task}: training or validation frames differ between the reports.")
    return notes
