"""Order the rows of an epoch as a pure function of seed and epoch.

The order does not depend on ranks, workers or resumes. The unit of sampling is the frame; its K views are separate
rows, of which an epoch uses one. An epoch draws min(|D|, cap) frames of each dataset D without replacement and shuffles
them together, so that datasets are weighted P(D) ~ min(|D|, cap) (US-JEPA, arXiv 2602.19322, sampling).

No epoch is ever stored. Place p of an epoch holds number q = shuffle(p) of all draws; q determines the dataset and
which of its draws; a dataset over the cap draws by a shuffle of its own. Both shuffles are keyed bijections, computed
only at the places of a batch, so a batch costs the same in an epoch of a thousand frames and of a hundred million.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.places.runs import Runs
from usjepa.train.counter import absorb, bits, stream
from usjepa.train.data.permutation import permuted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.train.data.clip_runs import Frames

    Ints = NDArray[np.int64]

ORDER_VERSION = 2
"""Part of a run's identity: a run resumes only in the order in which it began. Version 1 sorted a hash per frame."""


class EpochOrder:
    """The rows that a training run visits, in order.

    The last batch of an epoch is short rather than dropped, so every drawn frame is seen. The schedule counts steps and
    is not affected.
    """

    def __init__(self, frames: Frames, settings: TrainSettings) -> None:
        self._frames = frames
        self._batch_size = settings.batch_size
        sizes = np.array(frames.datasets, dtype=np.int64)
        self._size_D = sizes
        self._first_D = np.cumsum(sizes) - sizes
        self._drawn_D = np.minimum(sizes, settings.dataset_cap)
        self._end_D = np.cumsum(self._drawn_D)
        self._key = stream("order", settings.seed)

    @property
    def length(self) -> int:
        """Frames (= rows) per epoch: the same in every epoch."""
        return int(self._end_D[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, whatever the epoch."""
        return self._frames.nbytes

    def at(self, epoch: int, places: Ints) -> Ints:
        """Return the positions in the table of the rows at some places of an epoch.

        Args:
            epoch: from 0.
            places: int64 [n], each from 0 to length - 1.

        Returns:
            int64 [n].
        """
        places = np.asarray(places, dtype=np.int64)
        key = absorb(self._key, epoch)
        number = permuted(bits(key, 0), places, self.length)
        dataset = np.searchsorted(self._end_D, number, side="right")
        draw = number - (self._end_D - self._drawn_D)[dataset]
        for capped in np.flatnonzero(self._drawn_D < self._size_D):
            of_it = np.flatnonzero(dataset == capped)
            draw[of_it] = permuted(bits(key, 1 + int(capped)), draw[of_it], int(self._size_D[capped]))
        row, views, source, frame = self._frames.find(self._first_D[dataset] + draw)
        # Without an offset, view 0 of all frames would come in the same epoch. It does not depend on the seed.
        offset = (bits(stream("views", source, frame), 0) >> np.uint64(1)).astype(np.int64)
        return self._frames.positions[row + (epoch + offset % views) % views]

    def rows(self, epoch: int) -> Ints:
        """Return the positions of all rows of an epoch in order, int64 [length]: one view of every frame drawn."""
        return self.at(epoch, np.arange(self.length, dtype=np.int64))

    def steps_per_epoch(self, batch_size: int | None = None) -> int:
        """Return the batches per epoch, including the short last one; `batch_size` defaults to the recipe's."""
        return -(-self.length // (batch_size or self._batch_size))

    def batch(self, epoch: int, index: int) -> Ints:
        """Return the positions of the global batch `index` (from 0) of an epoch, int64 [b]; ranks share it.

        Raises:
            UsageError: the epoch has no such batch.
        """
        if not 0 <= index < self.steps_per_epoch():
            raise UsageError(f"Batch {index} of epoch {epoch} does not exist: an epoch has {self.steps_per_epoch()}.")
        first = index * self._batch_size
        return self.at(epoch, np.arange(first, min(first + self._batch_size, self.length), dtype=np.int64))

    def position_of(self, step: int) -> tuple[int, int]:
        """Return the epoch and the batch index of a global step, all from 0."""
        return divmod(step, self.steps_per_epoch())


def first_views(source_R: NDArray[Any], frame_R: NDArray[Any], view_R: NDArray[Any], positions: Ints) -> Ints:
    """Return the row of each frame's lowest view among `positions`, int64 ascending: those that validation reads."""
    positions = np.asarray(positions, dtype=np.int64)
    order = np.lexsort((view_R[positions], frame_R[positions], source_R[positions]))
    source, frame = source_R[positions][order], frame_R[positions][order]
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (source[1:] != source[:-1]) | (frame[1:] != frame[:-1])
    return np.sort(positions[order][starts])


def first_views_of(table: Table, part: Runs | Ints) -> Ints:
    """Return what `first_views` does of some rows of a table, without an array of all rows where they are in order."""
    part = Runs.like(part)
    cut = table.stretches.cut(part) if table.stretches.in_order else None
    if cut is None:
        return first_views(table.source, table.frame, table.view, np.asarray(part))
    step = np.arange(int(cut.frames_r.sum())) - np.repeat(np.cumsum(cut.frames_r) - cut.frames_r, cut.frames_r)
    first: Ints = np.repeat(cut.row_r, cut.frames_r) + step * np.repeat(cut.views_r, cut.frames_r)
    return first
