"""Images of a batch in groups of about equal mask length, each padded to its own longest: less is computed of padding.

The longest context of a batch is a quarter longer than the mean one, and what stands at padded places is computed and
thrown away. Sorted by length and split, neighbours are padded to each other alone. No number depends on it but by
rounding: no image sees another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.train.masks.multiblock import Masks

_GROUPS = 4
"""At most: a further one saves little and makes each computation smaller."""
_IMAGES = 4
"""In a group, at least."""


@dataclass(frozen=True)
class Group:
    """Some images of a batch; together the groups hold each image once."""

    images_G: NDArray[np.int64]
    """Places in the batch."""
    context: int
    """N of the longest context."""
    targets: int
    """P of the longest target block."""
    context_padded: bool
    """False when every context is as long as the longest."""
    targets_padded: bool


def groups_of(masks: Masks) -> tuple[Group, ...]:
    """Split a batch by the length of its contexts; none for an empty one."""
    contexts_B = np.count_nonzero(masks.context_valid_BN, axis=1)
    targets_BM = np.count_nonzero(masks.targets_valid_BMP, axis=2)
    count = max(1, min(_GROUPS, len(contexts_B) // _IMAGES))
    parts = np.array_split(np.argsort(contexts_B, kind="stable"), count) if len(contexts_B) else []
    return tuple(_group(images_G, contexts_B[images_G], targets_BM[images_G]) for images_G in parts)


def _group(images_G: NDArray[np.int64], contexts_G: NDArray[np.int64], targets_GM: NDArray[np.int64]) -> Group:
    context, targets = int(contexts_G.max()), int(targets_GM.max())
    return Group(images_G, context, targets, bool((contexts_G < context).any()), bool((targets_GM < targets).any()))
