"""How far a score may be trusted: bootstrap intervals that resample whole test groups, and paired differences.

Frames of one patient are alike, so that patients are resampled, never frames (cluster bootstrap; Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8). Every encoder of a task meets the same resamples, so that
two of them are compared patient by patient. What a replicate scores is what the table shows: the mean over the seeds.
Intervals hold the trained probes fixed: they tell of other test patients, not of other training patients.

Shape suffixes: n test frames, G groups, B resamples, S seeds, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEVEL = 0.95
FEWEST_GROUPS = 10
"""With fewer test groups a percentile interval is too narrow to call any difference real: ours, a round number."""
AUROC_RESAMPLES = 1000
"""AUROC has to rank all frames anew in every resample; 1,000 are enough for an interval, not for a small p."""
_AT_ONCE = 500


@dataclass(frozen=True)
class Resamples:
    """How often each resample drew each test group."""

    counts_BG: NDArray[np.int32]
    group_n: Ints
    """[n] index of a frame's group."""

    @property
    def groups(self) -> int:
        """Number of test groups."""
        return int(self.counts_BG.shape[1])


@dataclass(frozen=True)
class Replicates:
    """A score in every resample; NaN where it can't be had, as AUROC when a single class was drawn."""

    macro_f1: Floats
    """[B]"""
    balanced_accuracy: Floats
    """[B]"""
    auroc: Floats
    """[B'] the first resamples; empty where there are no probabilities."""


@dataclass(frozen=True)
class Difference:
    """One score minus another, on the same test groups."""

    difference: float
    interval: tuple[float, float]
    p: float
    """Two-sided: twice the share of resamples on the other side of 0, never below 2 / (B + 1)."""


def resample(groups_n: Ints, count: int) -> Resamples:
    """Draw `count` resamples of the groups of n test frames, with replacement: a pure function of its arguments."""
    keys, group_n = np.unique(groups_n, return_inverse=True)
    generator = np.random.Generator(np.random.Philox(key=[len(keys), 0x626F6F74]))
    drawn = generator.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)), size=count)
    return Resamples(drawn.astype(np.int32), group_n.astype(np.int64))


def replicate(
    truth_n: Ints, predicted_Sn: Ints, classes: int, resamples: Resamples, probability_SnC: Floats | None = None
) -> Replicates:
    """Return the scores of predictions in every resample, averaged over seeds and over the classes that were drawn."""
    hits, said, there = _by_group(truth_n, predicted_Sn, classes, resamples)
    f1, accuracy = [], []
    for counts in _chunks(resamples.counts_BG):
        weights = counts.astype(np.float64)
        hit_BSC = np.tensordot(weights, hits, 1)
        said_BSC = np.tensordot(weights, said, 1)
        there_BC = weights @ there
        drawn_BC = there_BC > 0
        f1.append(_mean_where(2.0 * hit_BSC / np.maximum(there_BC[:, None] + said_BSC, 1.0), drawn_BC))
        accuracy.append(_mean_where(hit_BSC / np.maximum(there_BC, 1.0)[:, None], drawn_BC))
    ranked = np.empty(0) if probability_SnC is None else _auroc_replicates(truth_n, probability_SnC, resamples)
    return Replicates(np.concatenate(f1), np.concatenate(accuracy), ranked)


def interval(replicates_B: Floats) -> tuple[float, float] | None:
    """Return the percentile interval; None where fewer than two resamples have a score."""
    known = replicates_B[np.isfinite(replicates_B)]
    if len(known) < 2:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(one: float, other: float, one_B: Floats, other_B: Floats) -> Difference:
    """Return `one - other` with its interval and p, from replicates of the same resamples."""
    differences = one_B - other_B
    count = len(differences)
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(one - other, (float(low), float(high)), min(1.0, 2.0 * (beyond + 1) / (count + 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in their order."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def _by_group(truth_n: Ints, predicted_Sn: Ints, classes: int, resamples: Resamples) -> tuple[Floats, Floats, Floats]:
    """Return per group the frames rightly named [G, S, C], named [G, S, C], and there [G, C], by class."""
    groups, group_n = resamples.groups, resamples.group_n
    hits, said = (np.zeros((groups, len(predicted_Sn), classes)) for _ in range(2))
    there = np.zeros((groups, classes))
    np.add.at(there, (group_n, truth_n), 1.0)
    for seed, predicted_n in enumerate(predicted_Sn):
        np.add.at(said[:, seed], (group_n, predicted_n), 1.0)
        right = predicted_n == truth_n
        np.add.at(hits[:, seed], (group_n[right], truth_n[right]), 1.0)
    return hits, said, there


def _mean_where(score_BSC: Floats, drawn_BC: NDArray[np.bool_]) -> Floats:
    """Return the mean over seeds and the classes that a resample holds, [B]."""
    mean: Floats = (score_BSC.mean(axis=1) * drawn_BC).sum(axis=1) / drawn_BC.sum(axis=1)
    return mean


def _auroc_replicates(truth_n: Ints, probability_SnC: Floats, resamples: Resamples) -> Floats:
    """Return the macro one-vs-rest AUROC of the first resamples, [B']."""
    counts_BG = resamples.counts_BG[:AUROC_RESAMPLES]
    present = np.unique(truth_n)
    out = []
    for counts in _chunks(counts_BG, max(1, 4_000_000 // len(truth_n))):
        weight_Bn = counts[:, resamples.group_n].astype(np.float64)
        by_seed_and_class = [
            _weighted_auroc(weight_Bn, truth_n == number, probability_nC[:, number])
            for probability_nC in probability_SnC
            for number in present
        ]
        area = np.array(by_seed_and_class).reshape(len(probability_SnC), len(present), len(counts)).mean(axis=0)
        known = np.isfinite(area)
        total = np.where(known, area, 0.0).sum(axis=0)
        out.append(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan))
    return np.concatenate(out)


def _weighted_auroc(weight_Bn: Floats, positive_n: NDArray[np.bool_], score_n: Floats) -> Floats:
    """Return the area under the ROC curve with frame weights, ties counted half, [B]; NaN without both kinds."""
    order = np.argsort(score_n, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score_n[order]) > 0])
    sorted_Bn = weight_Bn[:, order]
    positive = np.add.reduceat(sorted_Bn * positive_n[order], starts, axis=1)
    negative = np.add.reduceat(sorted_Bn * ~positive_n[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    area: Floats = np.where(pairs > 0, (positive * below).sum(axis=1) / np.maximum(pairs, 1.0), np.nan)
    return area


def _chunks(counts_BG: NDArray[np.int32], size: int = _AT_ONCE) -> Iterator[NDArray[np.int32]]:
    for start in range(0, len(counts_BG), size):
        yield counts_BG[start : start + size]
