"""Group images by mask length, so that less compute goes into padding.

The longest context of a batch is a quarter longer than the mean one, and the results at padded places are thrown away.
Sorted by length and split, images are padded to the longest of their own group. Only rounding depends on the groups: no
image attends to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.train.masks.multiblock import Masks

_GROUPS = 4
"""Most groups per batch: a further one saves little and makes each computation smaller."""
_IMAGES = 4
"""Fewest images per group."""


@dataclass(frozen=True)
class Group:
    """Some images of a batch; together the groups hold each image once."""

    images_G: NDArray[np.int64]
    """int64 [G], indices into the batch."""
    context: int
    """Patches of the longest context."""
    targets: int
    """Patches of the longest target block."""
    context_padded: bool
    """False when every context is as long as the longest."""
    targets_padded: bool


def groups_of(masks: Masks) -> tuple[Group, ...]:
    """Split a batch by the length of its contexts; an empty batch has no groups."""
    contexts_B = np.count_nonzero(masks.context_valid_BN, axis=1)
    targets_BM = np.count_nonzero(masks.targets_valid_BMP, axis=2)
    count = max(1, min(_GROUPS, len(contexts_B) // _IMAGES))
    parts = np.array_split(np.argsort(contexts_B, kind="stable"), count) if len(contexts_B) else []
    return tuple(_group(images_G, contexts_B[images_G], targets_BM[images_G]) for images_G in parts)


def _group(images_G: NDArray[np.int64], contexts_G: NDArray[np.int64], targets_GM: NDArray[np.int64]) -> Group:
    context, targets = int(contexts_G.max()), int(targets_GM.max())
    return Group(images_G, context, targets, bool((contexts_G < context).any()), bool((targets_GM < targets).any()))
