"""Compare two reports, or two encoders, and decide which differences are real.

Two reports are compared on the tasks whose test frames are the same: equal content, classes, labels and groups, in
order. The predictions that `scores.json` keeps are scored again in the same draws of patients, so the comparison is
paired. All differences of one call belong to one family, corrected together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.report.document import read_document
from usjepa.evaluate.report.text import aligned_left
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS, LEAST_GROUPS, LEVEL, Draws, verdicts
from usjepa.evaluate.scores.metrics import score, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.evaluate.report.document import Document, TaskRecord
    from usjepa.evaluate.scores.records import Interval
    from usjepa.evaluate.scoring.encoder import ProbeScores

MEASURES = ("macro_f1", "balanced_accuracy")
"""What can be computed again from predictions."""
_PROTOCOL = (
    *("seeds", "lr", "weight_decay", "batch_size", "epochs", "patience", "neighbours", "attentive_frames"),
    "logistic_c",
)
"""Settings whose difference is noted."""


@dataclass(frozen=True)
class Question:
    """Which scores of two reports are compared."""

    probe: str = "probe"
    """Name of a probe that both reports hold."""
    measure: str = "macro_f1"
    """One of `MEASURES`."""
    draws: int = 10_000
    """Of the test groups, with replacement."""
    encoders: tuple[str, str] | None = None
    """Keys of the first report's encoder and of the second's; None: each with its namesake."""


@dataclass(frozen=True)
class EncoderDifference:
    """The second report's score minus the first's."""

    task: str
    encoder: str
    measure: str
    first: float
    second: float
    difference: float
    groups: int
    """Test groups that it rests on."""
    interval: Interval | None
    p: float
    p_holm: float
    real: bool


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
        """Return lines for a terminal: percent, and a verdict in words."""
        lines = [["task", "encoder", "first", "second", "difference [95 %]", "p (Holm)", "verdict"]]
        for one in self.differences:
            low, high = one.interval or (float("nan"), float("nan"))
            better = "second is better" if one.difference > 0 else "first is better"
            lines.append(
                [
                    one.task,
                    one.encoder,
                    f"{100 * one.first:.1f}",
                    f"{100 * one.second:.1f}",
                    f"{100 * one.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                    f"{one.p_holm:.3g}",
                    f"real: {better}" if one.real else "not shown to differ",
                ]
            )
        table = aligned_left(lines) if self.differences else ["Nothing to compare."]
        return "\n".join([*table, *[f"note: {note}" for note in self.notes]])


def compare(first: Path, second: Path, question: Question) -> Comparison:
    """Compare two reports' scores, encoder by encoder, or two encoders, which may be of one report.

    Args:
        first: a report's scores.json, or its folder.
        second: another's.
        question: which encoders, by which probe and measure.

    Raises:
        UsageError: a file is no report's scores, or neither has such a probe, or one has no such encoder.
    """
    reports = read_document(first), read_document(second)
    _refuse_unknown(question, (first, second), reports)
    notes = _settings_differ(*reports)
    pairs: list[tuple[_Pair, NDArray[np.float64]]] = []
    theirs = {task.name: task for task in reports[1].tasks}
    for task in reports[0].tasks:
        other = theirs.get(task.name)
        why = _not_alike(task, other)
        if other is None or why:
            notes.append(f"{task.name}: not compared, {why}.")
            continue
        notes += _warnings(task, other)
        found, reasons = _on_task(task, reports, question)
        pairs += found
        notes += reasons
    tests = verdicts([drawn for _, drawn in pairs], [pair.groups for pair, _ in pairs])
    differences = [
        EncoderDifference(**asdict(pair), difference=pair.second - pair.first, **asdict(test))
        for (pair, _), test in zip(pairs, tests, strict=True)
    ]
    return Comparison(differences, notes)


@dataclass(frozen=True)
class _Pair:
    """Two scores on one task."""

    task: str
    encoder: str
    measure: str
    first: float
    second: float
    groups: int


def _refuse_unknown(question: Question, paths: tuple[Path, Path], reports: tuple[Document, Document]) -> None:
    if question.measure not in MEASURES:
        raise UsageError(f"no measure {question.measure!r} can be compared; there are {', '.join(MEASURES)}.")
    known = {name: None for report in reports for name in report.probes}
    if question.probe not in known:
        raise UsageError(f"neither report has scores of {question.probe!r}; there are {', '.join(known)}.")
    for path, report, encoder in zip(paths, reports, question.encoders or (), strict=False):
        if encoder not in report.encoders:
            raise UsageError(f"{path}: no encoder {encoder!r}; it has {', '.join(report.encoders)}.")


def _on_task(
    task: TaskRecord, reports: tuple[Document, Document], question: Question
) -> tuple[list[tuple[_Pair, NDArray[np.float64]]], list[str]]:
    """Return the scores on one task with their difference in each draw, and what was not compared."""
    draws = Draws(unpacked(task.test.groups), question.draws)
    truth, classes, measure = unpacked(task.test.labels), len(task.classes), question.measure
    pairs, notes = [], []
    for keys in [question.encoders] if question.encoders else [(name, name) for name in reports[0].encoders]:
        name = keys[0] if keys[0] == keys[1] else " | ".join(keys)
        scores = [report.find(task.name, key) for report, key in zip(reports, keys, strict=True)]
        if None in scores:
            continue
        identities = [report.encoders[key].identities[task.name] for report, key in zip(reports, keys, strict=True)]
        if digest_of(identities[0]) == digest_of(identities[1]):
            notes.append(f"{task.name}: {name} is the same in both: nothing to compare.")
            continue
        probes = [one.probes.get(question.probe) for one in scores if one is not None]
        made = [_predictions(one) for one in probes if one is not None]
        if len(made) < len(probes):
            notes.append(f"{task.name}: {name} is not compared, a report has no {question.probe} scores of it.")
            continue
        first, second = (
            float(np.mean([getattr(score(truth, one, classes), measure) for one in each])) for each in made
        )
        drawn = [draws.of_predictions(truth, each, classes)[measure] for each in made]
        pairs.append((_Pair(task.name, name, measure, first, second, draws.groups), drawn[1] - drawn[0]))
    return pairs, notes


def _predictions(probe: ProbeScores) -> NDArray[np.int64]:
    """Return the class of every test frame, int64 [S, N]."""
    return np.stack([unpacked(line) for line in probe.predicted])


def _not_alike(one: TaskRecord, other: TaskRecord | None) -> str:
    """Return why two reports' tasks can't be compared; "" if they can."""
    if other is None:
        return "the second report has no task of that name"
    if one.classes != other.classes:
        return "its classes differ"
    if one.test != other.test:
        return "its test frames differ in content, number, labels or groups"
    return ""


def _warnings(one: TaskRecord, other: TaskRecord) -> list[str]:
    notes = []
    groups = len(set(one.test.groups.split()))
    if groups < FEW_GROUPS:
        what = "too few to call any difference real" if groups < LEAST_GROUPS else "few: p-values are too small"
        notes.append(f"{one.name}: {groups} test groups are {what}.")
    if one.identity["store"] != other.identity["store"]:
        notes.append(f"{one.name}: the frames lie in two stores, whose pixels may differ; labels and groups are equal.")
    if one.identity["frames"] != other.identity["frames"]:
        notes.append(f"{one.name}: training or validation frames differ between the reports.")
    return notes


def _settings_differ(first: Document, second: Document) -> list[str]:
    a, b = first.settings, second.settings
    differ = [f"{name} {a.get(name)} | {b.get(name)}" for name in sorted(_PROTOCOL) if a.get(name) != b.get(name)]
    return [f"The protocols differ (first | second): {', '.join(differ)}."] if differ else []
