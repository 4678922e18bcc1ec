"""Which differences between encoders are real: on the same test groups, corrected for how many are looked at.

A difference is called real when its p, corrected by Holm over everything that is compared at once, lies under 5 % and
the task has at least ten test groups. Everything else is "not shown", which is not the same as "equal".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import digest_of
from usjepa.evaluate.intervals import FEWEST_GROUPS, Difference, Resamples, holm, paired, replicate, resample
from usjepa.evaluate.metrics import score
from usjepa.evaluate.scoring import unwritten, written
from usjepa.evaluate.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.evaluate.tasks import Task

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class HeldOut:
    """The test frames of a task: what two predictions of them must share to be compared."""

    truth: NDArray[np.int64]
    classes: int
    resamples: Resamples


@dataclass(frozen=True)
class Pair:
    """Two predictions of the same test frames."""

    names: dict[str, Json]
    """What the line of the result says of them."""
    one: NDArray[np.int64]
    """[S, n] classes."""
    other: NDArray[np.int64]
    """[S', n]"""
    tested: HeldOut


def frames_told(task: Task) -> dict[str, Json]:
    """Return the test frames of a task as scores.json holds them: truth, groups, and a digest of which frames they are.

    The digest rests on the sources' content, frame numbers, labels and grouping, so that the same patients are known
    again in another store, and no name of a patient is written.
    """
    test = task.positions(TEST)
    table = task.store.table
    at = np.searchsorted(task.store.rows, task.rows[test])
    sources = [table.sources[source].content_hash for source in table.source[at].tolist()]
    groups, truth = _numbered(task.groups[test]), task.labels[test]
    digest = digest_of([sources, table.frame[at].tolist(), truth.tolist(), list(task.classes), groups.tolist()])
    return {"digest": digest, "truth": written(truth), "groups": written(groups)}


def _numbered(groups_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return groups numbered by where they first appear: the same numbers whatever the groups were called."""
    _, first, group_n = np.unique(groups_n, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group_n], dtype=np.int64)


def held_out_of(task: Json, resamples: int) -> HeldOut:
    """Return the test frames that a task of scores.json tells of."""
    frames = task["test"]
    groups = unwritten(frames["groups"])
    return HeldOut(unwritten(frames["truth"]), len(task["classes"]), resample(groups, resamples))


def predictions_of(scores: Json, classifier: str = "probe") -> NDArray[np.int64]:
    """Return what a classifier of scores.json said of the test frames, int64 [S, n]."""
    return np.stack([unwritten(line) for line in scores[classifier]["predictions"]])


def compared(pairs: Sequence[Pair]) -> list[dict[str, Json]]:
    """Return a line for each pair: difference in macro F1, interval, p, corrected p, and whether it is real."""
    found = [_difference(pair) for pair in pairs]
    corrected = holm([difference.p for difference in found])
    return [
        {
            **pair.names,
            "difference": difference.difference,
            "interval": list(difference.interval),
            "p": difference.p,
            "p_holm": p,
            "groups": pair.tested.resamples.groups,
            "real": p < SIGNIFICANT and pair.tested.resamples.groups >= FEWEST_GROUPS,
        }
        for pair, difference, p in zip(pairs, found, corrected, strict=True)
    ]


def _difference(pair: Pair) -> Difference:
    tested = pair.tested
    means, replicates = [], []
    for predicted in (pair.one, pair.other):
        means.append(float(np.mean([score(tested.truth, seed, tested.classes).macro_f1 for seed in predicted])))
        replicates.append(replicate(tested.truth, predicted, tested.classes, tested.resamples).macro_f1)
    return paired(means[0], means[1], replicates[0], replicates[1])
