"""Test the differences between rows of the table over all patients, whichever fold tested them.

A fold tests a third of the patients; over all folds each patient is tested once, by an encoder that never saw them.
Their predictions side by side give one macro F1 per row, and whole patients are drawn for its differences: the same
draws for both rows. Where every seed was tested on the same patients, as on the phantom, seeds are further predictors
of the same frames. All differences of a table are one family (Holm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.learning.scores import GRID, MEAN, Scored
from usjepa.evaluate.report.document import read_document
from usjepa.evaluate.scores.bootstrap import Draws, verdicts
from usjepa.evaluate.scores.metrics import score, unpacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.report.document import Document

    Ints = NDArray[np.int64]

DRAWS = 10_000
PROBES = ("probe", "logistic", "knn")
UNPOOLED = ("32x32 pixels", "HOG")
"""Rows of what has no tokens."""


@dataclass(frozen=True)
class Tested:
    """What a row predicts of a task's test frames, over all folds."""

    truth_N: Ints
    groups_N: Ints
    """Numbers of patients, which differ between folds."""
    predicted_SN: Ints
    """Of each probe seed; where seeds share their test frames, of each probe seed of each of them."""
    classes: int

    @property
    def macro_f1(self) -> float:
        return float(np.mean([score(self.truth_N, one, self.classes).macro_f1 for one in self.predicted_SN]))

    def drawn(self, draws: Draws) -> NDArray[np.float64]:
        return draws.of_predictions(self.truth_N, self.predicted_SN, self.classes)["macro_f1"]


def predictions_of(scored: Sequence[Scored], task: str, probe: str) -> Tested:
    """Join the predictions of a row's reports."""
    documents = [(read_document(one.report), one.encoder) for one in scored]
    names = sorted({name for document, _ in documents for name in _task(document, task).classes})
    parts: dict[str, list[tuple[Document, str]]] = {}
    for document, encoder in documents:
        parts.setdefault(_task(document, task).test.digest, []).append((document, encoder))
    truth, groups, predicted = [], [], []
    for number, part in enumerate(parts.values()):
        found = _task(part[0][0], task)
        place = np.array([names.index(name) for name in found.classes])
        truth.append(place[unpacked(found.test.labels)])
        groups.append(unpacked(found.test.groups) + number * 1_000_000)
        lines = [line for document, encoder in part for line in _predicted(document, task, encoder, probe)]
        predicted.append(place[np.stack([unpacked(line) for line in lines])])
    return Tested(np.concatenate(truth), np.concatenate(groups), np.concatenate(predicted, axis=1), len(names))


def pooled_differences(scored: Sequence[Scored], first: str, probe: str = "probe") -> list[dict[str, Any]]:
    """Return `first` minus every other row of the same pooling, by task: interval over patients and p by Holm.

    Rows that have nothing to pool (pixels, HOG) are compared with each pooling of `first`, others with their own alone.
    """
    rows: dict[str, list[Scored]] = {}
    for one in scored:
        rows.setdefault(one.row, []).append(one)
    tasks = sorted({task.name for one in rows[first] for task in read_document(one.report).tasks})
    pairs = [
        (first + pooling, name if name in rows else base, task)
        for task in tasks
        for pooling in ("", MEAN, GRID)
        if first + pooling in rows
        for base in dict.fromkeys(_base(row) for row in rows)
        for name in [base + pooling]
        if base != first and (name in rows or base in UNPOOLED)
    ]
    found, drawn = [], []
    for mine, other, task in pairs:
        a, b = predictions_of(rows[mine], task, probe), predictions_of(rows[other], task, probe)
        if not np.array_equal(a.groups_N, b.groups_N):
            continue  # other folds than the student's: not the same patients
        draws = Draws(a.groups_N, DRAWS)
        found.append((mine, other, task, a.macro_f1, b.macro_f1, draws.groups))
        drawn.append(a.drawn(draws) - b.drawn(draws))
    tests = verdicts(drawn, [one[-1] for one in found])
    return [
        {
            "task": task, "row": mine, "other": other, "macro_f1": round(100 * a, 2), "others": round(100 * b, 2),
            "difference": round(100 * (a - b), 2),
            "interval": [round(100 * end, 2) for end in test.interval or ()],
            "p": round(test.p, 4), "p_holm": round(test.p_holm, 4), "patients": groups, "real": test.real,
        }
        for (mine, other, task, a, b, groups), test in zip(found, tests, strict=True)
    ]  # fmt: skip


def lines_of(differences: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of differences."""
    lines = ["| task | row | macro F1 | against | its | difference | 95 % of patients | p (Holm) | |", "|---" * 9 + "|"]
    for one in differences:
        low, high = one["interval"] or (float("nan"),) * 2
        told = "real" if one["real"] else "not shown"
        lines.append(
            f"| {one['task']} | {one['row']} | {one['macro_f1']:.1f} | {one['other']} | {one['others']:.1f} "
            f"| {one['difference']:+.1f} | {low:+.1f} to {high:+.1f} | {one['p']:.4f} ({one['p_holm']:.4f}) | {told} |"
        )
    return lines


def _base(row: str) -> str:
    return row.removesuffix(MEAN).removesuffix(GRID)


def _task(document: Document, name: str) -> Any:
    return next(task for task in document.tasks if task.name == name)


def _predicted(document: Document, task: str, encoder: str, probe: str) -> Sequence[str]:
    scores = document.find(task, encoder)
    assert scores is not None
    return scores.probes[probe].predicted
