"""Take a task's splits from its layout or store; draw few labels.

How frames are dealt to training, validation and test is `usjepa.train.probe.splits`: a probe while training leaves out
what an evaluation tests on, so both deal alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.train.probe.splits import DEALT, GIVEN, TEST, TRAIN, VALIDATION, Frames, Split, split_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "DEALT",
    "GIVEN",
    "OF_STORE",
    "SET_ASIDE",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Frames",
    "Split",
    "split_frames",
    "splits_of",
    "stratified_draw",
]

_DRAW_TAG = 0x666577
SET_ASIDE = "set aside by stage one, by hash of the group"
OF_STORE = "as the store has it: given by its data, or set aside by its scan"


def splits_of(given: Sequence[str], in_store: Sequence[str]) -> tuple[list[str], str]:
    """Return a file's splits and who named them, for a layout's splits and those of the store that it was cut into.

    Where the data gives no test split, groups that stage one set aside stay out of training here too.
    """
    if TEST in given or TEST not in in_store:
        return list(given), GIVEN
    return [stored if stored == TEST else own for stored, own in zip(in_store, given, strict=True)], SET_ASIDE


def stratified_draw(labels_N: NDArray[np.int64], share: float, draw: int) -> NDArray[np.int64]:
    """Return the positions of a draw's frames, ascending: of each class that share, rounded, at least one frame.

    Draws of one number lie within each other: a smaller share takes some of the frames of a larger one.
    """
    generator = keyed_generator(_DRAW_TAG, draw)
    chosen = []
    for number in np.unique(labels_N):
        shuffled = generator.permutation(np.flatnonzero(labels_N == number))
        chosen.append(shuffled[: max(1, round(share * len(shuffled)))])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
