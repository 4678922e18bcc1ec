"""Which frames of a task are trained on, stopped on and tested on. Whole groups (patients, clips) only.

A split that the data brings along is kept as it is, leaks included: they are counted and told. Otherwise groups go
by hash, so that growing a task moves none; where that leaves a class out of a part, they are dealt class by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Mask = NDArray[np.bool_]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_VALIDATION_NAMES = ("val", "valid", "validation")
_FEW_TEST_GROUPS = 5


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

    def lacking(self, mask: Mask) -> list[str]:
        """Return the classes without a frame under the mask."""
        present = set(self.labels[mask].tolist())
        return [name for number, name in enumerate(self.classes) if number not in present]


def split_frames(
    frames: Frames, test_fraction: float, validation_fraction: float
) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """Return "train", "validation" or "test" for each frame, and what a reader of the scores must know of it."""
    test, notes = _test_part(frames, test_fraction)
    named = np.isin(frames.given.astype(str), _VALIDATION_NAMES) & ~test
    if named.any():
        validation = named
        notes += _straddling(frames, validation, ~validation & ~test, "validation", "training")
    else:
        validation, more = _choose(frames, ~test, validation_fraction, VALIDATION)
        notes += more
    splits = np.full(len(test), TRAIN, dtype=object)
    splits[validation] = VALIDATION
    splits[test] = TEST
    return splits, (*notes, *_lacks(frames, splits), *_few(frames, test))


def _test_part(frames: Frames, fraction: float) -> tuple[Mask, list[str]]:
    test = frames.given.astype(str) == TEST
    if test.any():
        return test, _straddling(frames, test, ~test, "test", "training")
    return _choose(frames, np.ones(len(test), bool), fraction, TEST)


def _straddling(frames: Frames, one: Mask, other: Mask, name: str, other_name: str) -> list[str]:
    shared = frames.groups_of(one) & frames.groups_of(other)
    if not shared:
        return []
    touched = int((one & np.isin(frames.groups, sorted(shared))).sum())
    return [
        f"Leak: {len(shared)} of {len(frames.groups_of(one))} {name} groups also have frames in {other_name} "
        f"({touched} of {int(one.sum())} {name} frames). The split came with the data and is kept; "
        "scores on it are too high."
    ]


def _choose(frames: Frames, among: Mask, fraction: float, part: str) -> tuple[Mask, list[str]]:
    """Return the frames of the groups that make up a part: by hash, or class by class where hash alone won't do."""
    candidates = sorted(frames.groups_of(among))
    share = {group: _share(part, frames.keys[group]) for group in candidates}
    if fraction == 0.0:
        return np.zeros(len(among), bool), []
    chosen = among & np.isin(frames.groups, [group for group in candidates if share[group] < fraction])
    missing = frames.lacking(chosen) or frames.lacking(among & ~chosen)
    if not missing:
        return chosen, []
    dealt = [g for stratum in _strata(frames, among) for g in _smallest(stratum, share, fraction)]
    return among & np.isin(frames.groups, dealt), [
        f"Dealing groups to {part} by hash alone would have left {', '.join(missing)} out of a part: "
        "they were dealt class by class instead."
    ]


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


def _lacks(frames: Frames, splits: NDArray[np.object_]) -> list[str]:
    notes = []
    for part in (TRAIN, VALIDATION, TEST):
        mask = splits == part
        if not mask.any():
            notes.append(f"No frame is left for {part}." + (_ENDLESS if part == VALIDATION else ""))
            continue
        for name in frames.lacking(mask):
            notes.append(f"No example of {name} in {part}.")
    return notes


_ENDLESS = " Every probe runs all its epochs."


def _few(frames: Frames, test: Mask) -> list[str]:
    notes = []
    for number, name in enumerate(frames.classes):
        mask = test & (frames.labels == number)
        count = len(frames.groups_of(mask))
        if 0 < count < _FEW_TEST_GROUPS:
            notes.append(
                f"Too few examples: {name} is tested on {int(mask.sum())} frames of {count} "
                f"{'group' if count == 1 else 'groups'}; another choice of groups can move its score a lot."
            )
    return notes
