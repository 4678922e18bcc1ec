"""Assign a task's frames to training, validation and test, by whole groups.

A split that the data brings along is kept as it is, leaks included: they are counted and noted. Otherwise groups are
dealt class by class, the rarest class first, so that every part holds every class that has groups enough. Within a
class the groups of the smallest hashes are taken: the same groups on every machine and in any order. When a
task grows, only the groups closest to the threshold can change split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from usjepa.cache.sources.splits import VAL, canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

Mask = NDArray[np.bool_]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
GIVEN, DEALT = "given by the data", "dealt by group and class"


@dataclass(frozen=True)
class Frames:
    """The labelled frames of a task, a value each."""

    labels: NDArray[np.int64]
    """[n] class number."""
    groups: NDArray[np.int64]
    """[n] index into `keys`."""
    given: NDArray[np.object_]
    """[n] split named by the data, "" for none."""
    keys: tuple[str, ...]
    """[G] what names a group, the same in every store that holds it."""
    classes: tuple[str, ...]

    def groups_of(self, mask: Mask) -> set[int]:
        """Return the groups that have a frame under the mask."""
        return {int(group) for group in np.unique(self.groups[mask])}


@dataclass(frozen=True)
class Split:
    """A part for each frame, and where the parts come from."""

    parts: NDArray[np.object_]
    """[n] "train", "validation" or "test"."""
    origin: dict[str, str]
    """"test" and "validation" -> given by the data, or dealt."""
    notes: tuple[str, ...]
    """What a reader of the scores must know of it."""


def split_frames(frames: Frames, test_fraction: float, validation_fraction: float, given_by: str = GIVEN) -> Split:
    """Return the part of each frame.

    Args:
        frames: labels, groups and the splits that the data brings along.
        test_fraction: share of the groups to test on, where no test split is given.
        validation_fraction: share of the training groups to stop on, where no validation split is given.
        given_by: who named the splits that frames bring along.
    """
    given = np.array([canonical(str(name)) for name in frames.given.tolist()], dtype=object)
    test, validation = given == TEST, given == VAL
    origin = {TEST: given_by if test.any() else DEALT, VALIDATION: given_by if validation.any() else DEALT}
    notes: list[str] = []
    if test.any():
        notes += _straddling(frames, test, ~test, TEST, given_by)
    else:
        test = _dealt(frames, ~validation, test_fraction, TEST)
    if validation.any():
        notes += _straddling(frames, validation, ~validation & ~test, VALIDATION, given_by)
    else:
        validation = _dealt(frames, ~test, validation_fraction, VALIDATION)
    parts = np.full(len(test), TRAIN, dtype=object)
    parts[validation] = VALIDATION
    parts[test] = TEST
    return Split(parts, origin, tuple(notes))


def _straddling(frames: Frames, one: Mask, other: Mask, name: str, given_by: str) -> list[str]:
    shared = frames.groups_of(one) & frames.groups_of(other)
    if not shared:
        return []
    kept = "came with the data and is kept" if given_by == GIVEN else "is kept as it was found"
    touched = int((one & np.isin(frames.groups, sorted(shared))).sum())
    return [
        f"Leak: {len(shared)} of {len(frames.groups_of(one))} {name} groups also have frames in training "
        f"({touched} of {int(one.sum())} {name} frames). The split {kept}; "
        "scores on it are too high."
    ]


def _dealt(frames: Frames, among: Mask, fraction: float, part: str) -> Mask:
    """Return the frames of the groups that make up a part: about a fraction of each class's groups."""
    if fraction == 0.0:
        return np.zeros(len(among), bool)
    share = {group: _share(part, frames.keys[group]) for group in sorted(frames.groups_of(among))}
    chosen = [g for stratum in _strata(frames, among) for g in _smallest(stratum, share, fraction)]
    return among & np.isin(frames.groups, chosen)


def _share(part: str, key: str) -> float:
    """Return where in [0, 1) a group falls. Tagged, or the validation groups would be test groups' neighbours."""
    return xxhash.xxh3_64_intdigest(f"usjepa evaluate {part}\0{key}".encode()) / 2.0**64


def _strata(frames: Frames, among: Mask) -> list[list[int]]:
    """Return the groups by the rarest class they hold, so that rare classes reach every part first."""
    holders = [frames.groups_of(among & (frames.labels == number)) for number in range(len(frames.classes))]
    strata, taken = [], set[int]()
    for number in sorted(range(len(holders)), key=lambda number: (len(holders[number]), number)):
        strata.append(sorted(holders[number] - taken))
        taken |= holders[number]
    return strata


def _smallest(stratum: Sequence[int], share: dict[int, float], fraction: float) -> list[int]:
    """Return a stratum's groups of smallest hash: about the fraction, at least one, never all."""
    count = min(max(1, round(fraction * len(stratum))), len(stratum) - 1)
    return sorted(stratum, key=lambda group: share[group])[: max(0, count)]


def dealt_in_turn(frames: Frames, among: Mask, parts: int) -> dict[int, int]:
    """Return a part from 0 for each group that has frames under the mask: dealt in turn, class by class."""
    share = {group: _share("folds", frames.keys[group]) for group in sorted(frames.groups_of(among))}
    ordered = [group for stratum in _strata(frames, among) for group in sorted(stratum, key=lambda one: share[one])]
    return {group: place % parts for place, group in enumerate(ordered)}
