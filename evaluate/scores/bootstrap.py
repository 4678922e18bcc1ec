"""Resample whole test groups to bound scores by chance and to test differences between encoders.

Frames of a patient look alike, so drawing frames would promise far too narrow intervals: groups (patients, clips) are
drawn with replacement, all their frames together. Every encoder of a task meets the same draws, which makes differences
between encoders paired. Probe seeds are drawn again as well, so that an interval covers both the choice of patients and
the luck of a probe's start.

A difference is called real when its p-value, after Holm's correction over every comparison made together, is below
0.05 and rests on ten test groups or more. Where it is not, the encoders are not shown to differ, which is not the same
as being equal.

Shape suffixes: R draws, G groups, S predictors (probe seeds), N test frames, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.scores.metrics import from_confusions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.scores.records import Interval

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

FEW_GROUPS = 20
"""Below this many test groups the report warns: few groups show little of how much groups differ. Our choice."""

_AUROC_DRAWS = 1000
"""AUROC ranks every frame anew in each draw: enough of them for an interval, while small p-values need more."""

LEVEL = 0.05
"""Chance of one false claim in a family of comparisons."""
LEAST_GROUPS = 10
"""With fewer test groups no difference is called real: three patients who agree would give the smallest p there is."""

_TAG = 0x626F6F74
_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Draws:
    """The draws of one task: the same for every encoder."""

    groups_N: Ints
    """Group of each test frame: any numbers."""
    count: int
    """R."""

    @cached_property
    def _index(self) -> tuple[int, Ints]:
        keys, index_N = np.unique(self.groups_N, return_inverse=True)
        return len(keys), index_N.astype(np.int64)

    @property
    def groups(self) -> int:
        """G."""
        return self._index[0]

    @cached_property
    def group_weights(self) -> NDArray[np.float32]:
        """How often each group was drawn, [R, G]; rows sum to G."""
        generator = keyed_generator(_TAG, self.groups)
        even = np.full(self.groups, 1.0 / self.groups)
        return generator.multinomial(self.groups, even, size=self.count).astype(np.float32)

    def seed_weights(self, seeds: int) -> Floats:
        """Return how much of each probe seed is in a draw, [R, S]; rows sum to 1."""
        generator = keyed_generator(_TAG + 1, seeds)
        return np.asarray(generator.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=self.count) / seeds)

    def sums(self, values_KN: Floats) -> Floats:
        """Return the sums of several values over the test frames of each draw, float64 [R, K]."""
        groups, index_N = self._index
        by_group_KG = np.stack([np.bincount(index_N, one, minlength=groups) for one in values_KN])
        step = max(1, _AT_ONCE // groups)
        starts = range(0, self.count, step)
        parts = [self.group_weights[at : at + step].astype(np.float64) @ by_group_KG.T for at in starts]
        return np.concatenate(parts)

    def confusions(self, truth_N: Ints, predicted_SN: Ints, classes: int) -> NDArray[np.float32]:
        """Return each group's confusion matrices [truth, prediction], [G, S, C, C]."""
        groups, index_N = self._index
        seeds = len(predicted_SN)
        cell_SN = ((index_N * seeds + np.arange(seeds)[:, None]) * classes + truth_N) * classes + predicted_SN
        counted = np.bincount(cell_SN.ravel(), minlength=groups * seeds * classes**2)
        return counted.reshape(groups, seeds, classes, classes).astype(np.float32)

    def of_predictions(self, truth_N: Ints, predicted_SN: Ints, classes: int) -> dict[str, Floats]:
        """Return macro F1 and balanced accuracy in each draw, [R]: means over the seeds that were drawn.

        As in `metrics.score`, the mean is over the classes that occur in the draw.
        """
        matrices = self.confusions(truth_N, predicted_SN, classes).reshape(self.groups, -1)
        drawn_RSCC = (self.group_weights @ matrices).reshape(self.count, len(predicted_SN), classes, classes)
        seeds_RS = self.seed_weights(len(predicted_SN))
        f1_RS, recall_RS = from_confusions(drawn_RSCC)
        return {
            "macro_f1": (f1_RS * seeds_RS).sum(axis=1),
            "balanced_accuracy": (recall_RS * seeds_RS).sum(axis=1),
        }

    def auroc(self, truth_N: Ints, probability_SNC: Floats) -> Floats:
        """Return the macro one-vs-rest AUROC in the first 1,000 draws, [R]; NaN where one holds a single class."""
        first = replace(self, count=min(self.count, _AUROC_DRAWS))
        return first._auroc(truth_N, probability_SNC)  # of the same numbers: rows of a generator come in order

    def _auroc(self, truth_N: Ints, probability_SNC: Floats) -> Floats:
        index_N = self._index[1]
        total_RS = np.zeros((self.count, len(probability_SNC)))
        present_R = np.zeros(self.count)
        for number in range(probability_SNC.shape[2]):
            positive_N = truth_N == number
            held_R = self.group_weights @ np.bincount(index_N[positive_N], minlength=self.groups).astype(np.float32)
            rest_R = self.group_weights @ np.bincount(index_N[~positive_N], minlength=self.groups).astype(np.float32)
            both_R = (held_R > 0) & (rest_R > 0)
            present_R += both_R
            for seed, scores_NC in enumerate(probability_SNC):
                wins_R = self._wins(scores_NC[:, number], positive_N)
                total_RS[:, seed] += np.where(both_R, wins_R / np.maximum(held_R * rest_R, 1), 0.0)
        with np.errstate(invalid="ignore"):
            return np.asarray((total_RS * self.seed_weights(len(probability_SNC))).sum(axis=1) / present_R)

    def _wins(self, score_N: Floats, positive_N: NDArray[np.bool_]) -> Floats:
        """Return how many (positive, other) pairs are in order in each draw, equal scores half, [R]."""
        _, rank_N = np.unique(score_N, return_inverse=True)
        index_N = self._index[1]
        order = np.argsort(rank_N, kind="stable")
        ends = np.flatnonzero(np.diff(rank_N[order], append=-1))  # last frame of each run of equal scores
        wins_R = np.empty(self.count)
        step = max(1, _AT_ONCE // len(order))
        for start in range(0, self.count, step):
            weight_rN = self.group_weights[start : start + step][:, index_N[order]].astype(np.float64)
            ours_rK = np.diff(np.cumsum(weight_rN * positive_N[order], axis=1)[:, ends], axis=1, prepend=0.0)
            below_rK = np.cumsum(weight_rN * ~positive_N[order], axis=1)[:, ends]
            others_rK = np.diff(below_rK, axis=1, prepend=0.0)
            wins_R[start : start + step] = (ours_rK * (below_rK - 0.5 * others_rK)).sum(axis=1)
        return wins_R


def interval(values_R: Floats) -> Interval | None:
    """Return the 95 % percentile interval of draws; None with fewer than 20 finite ones."""
    usable = values_R[np.isfinite(values_R)]
    if len(usable) < 20:
        return None
    low, high = np.percentile(usable, [2.5, 97.5])
    return float(low), float(high)


def _two_sided_p(difference_R: Floats) -> float:
    """Return the bootstrap's p-value of a difference of zero: twice the share of draws on the rarer side of it.

    One is added above and below, as a finite number of draws can't show a p of zero (Davison and Hinkley 1997, 4.2.5).
    Draws in which the difference is undefined (NaN) do not count; 1 where all are.
    """
    difference_R = difference_R[np.isfinite(difference_R)]
    count = len(difference_R)
    rarer = min(int((difference_R <= 0).sum()), int((difference_R >= 0).sum()))
    return float(min(1.0, 2 * (rarer + 1) / (count + 1)))


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many were tested (Holm 1979): a family's chance of one false claim stays."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = highest
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """What the draws say about one difference."""

    interval: Interval | None
    """95 %."""
    p: float
    """Two-sided, of a difference of zero."""
    p_holm: float
    """Corrected for all comparisons of the family."""
    real: bool


def verdicts(drawn: Sequence[Floats], groups: Sequence[int]) -> list[Verdict]:
    """Test one family of differences, corrected together.

    Args:
        drawn: of each difference its value in each draw, [R].
        groups: how many test groups each rests on.
    """
    # Every draw of one group alone is that group: such draws say nothing.
    drawn = [difference_R if count > 1 else difference_R[:0] for difference_R, count in zip(drawn, groups, strict=True)]
    raw = [_two_sided_p(difference_R) for difference_R in drawn]
    return [
        Verdict(interval(difference_R), p, adjusted, adjusted < LEVEL and count >= LEAST_GROUPS)
        for difference_R, count, p, adjusted in zip(drawn, groups, raw, _holm(raw), strict=True)
    ]
