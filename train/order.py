"""The global order of rows: a pure function of (seed, epoch), whatever the ranks, workers or resumes.

The unit of sampling is the frame; its K views are separate rows, of which an epoch uses one. An epoch draws
min(|D|, cap) frames of each dataset D without replacement and shuffles them together, so that datasets weigh
P(D) ~ min(|D|, cap) (arXiv 2602.19322, sampling). Draws are made by sorting per-frame hashes, not by permuting
positions: growing a store leaves the relative order of the frames it had untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from usjepa.cache.errors import UsageError
from usjepa.train.counter import bits, stream

if TYPE_CHECKING:
    from usjepa.cache.settings import TrainSettings

Ints = NDArray[np.int64]
Column = NDArray[Any]
"""One value a row: strings (object or str dtype) or integers."""


@dataclass(frozen=True)
class Split:
    """Positions (int64, ascending) of the rows of each part; positions count the rows of the table."""

    train: Ints
    validation: Ints
    excluded: int
    """Rows of `exclude_splits`, in neither part."""
    note: str = ""
    """What a user should know of how the groups fell; "" = nothing."""


def split_groups(
    dataset_R: Column, group_R: Column, split_R: Column, settings: TrainSettings, path_R: Column | None = None
) -> Split:
    """Hold out the groups whose hash lies under `validation_fraction`, so that growing a store moves none of them.

    A group is a pair (dataset, group name). Rows without a group name ("") belong to the group of their source's path
    where `path_R` is given, and of their dataset where it isn't. If no hash lies under the fraction, the group with
    the smallest one is held out; if all do, the one with the largest is trained on; a lone group is trained on. Each of
    these is told in `Split.note`, because further groups may end that exception.
    """
    taken = ~np.isin(split_R.astype(str), np.asarray(settings.exclude_splits, dtype=str))
    positions = np.flatnonzero(taken).astype(np.int64)
    if not positions.size:
        raise UsageError(
            f"all {len(taken)} rows belong to the excluded splits {list(settings.exclude_splits)}, nothing is left to "
            "train on: change train.exclude_splits or add data"
        )
    group_n, hash_G = _groups(dataset_R[taken], group_R[taken], None if path_R is None else path_R[taken])
    held_G, note = _held_out(hash_G, settings.validation_fraction)
    held_n = held_G[group_n]
    return Split(positions[~held_n], positions[held_n], int(len(taken) - positions.size), note)


def _groups(dataset_n: Column, group_n: Column, path_n: Column | None) -> tuple[Ints, NDArray[np.uint64]]:
    """Each row's group number, int64 [n], and each group's hash, uint64 [G].

    The hash is xxh3-64 of a tagged name. Without the tag, another split by the hash of (dataset, group), such as the
    scan's test split, would pick the same groups and leave none under the fraction.
    """
    columns = [dataset_n.tolist(), group_n.tolist()]
    columns.append([""] * len(group_n) if path_n is None else path_n.tolist())
    numbers: dict[tuple[object, object, object], int] = {}
    keys = ((dataset, group, "" if group != "" else path) for dataset, group, path in zip(*columns, strict=True))
    number_n = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(group_n))
    names = ("\0".join(("usjepa validation", *map(str, key))) for key in numbers)
    return number_n, np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in names), np.uint64, len(numbers))


def _held_out(hash_G: NDArray[np.uint64], fraction: float) -> tuple[NDArray[np.bool_], str]:
    """Which groups are held out, bool [G], and a note on an exception that was made."""
    share_G = hash_G.astype(np.float64) / 2.0**64
    held_G = share_G < fraction
    if fraction == 0.0:
        return held_G, ""
    if len(hash_G) == 1:
        return np.zeros(1, dtype=np.bool_), "only one group: all of it is trained on and there is no validation loss"
    if not held_G.any():
        held_G[np.argmin(share_G)] = True
        return held_G, f"no group's hash lies under {fraction:g}: the one with the smallest hash is held out"
    if held_G.all():
        held_G[np.argmax(share_G)] = False
        return held_G, f"every group's hash lies under {fraction:g}: the one with the largest hash is trained on"
    return held_G, ""


class EpochOrder:
    """Which rows a training run visits, and when.

    Columns are per row of the table: `dataset_R` (strings or codes), `source_R`, `frame_R`, `view_R` (integers). Only
    rows at `positions` take part. The last batch of an epoch is short rather than dropped, so every drawn frame is
    seen; the schedule counts steps and does not mind.
    """

    def __init__(
        self,
        dataset_R: Column,
        source_R: Column,
        frame_R: Column,
        view_R: Column,
        positions: Ints,
        settings: TrainSettings,
    ) -> None:
        positions = np.asarray(positions, dtype=np.int64)
        if not positions.size:
            raise UsageError("no rows to order: the training part of the store is empty, check the splits")
        self._batch_size = settings.batch_size
        self._cap = settings.dataset_cap
        source_n, frame_n, view_n = (column[positions].astype(np.int64) for column in (source_R, frame_R, view_R))
        by_frame = np.lexsort((view_n, frame_n, source_n))
        source_n, frame_n = source_n[by_frame], frame_n[by_frame]
        starts = np.r_[True, (source_n[1:] != source_n[:-1]) | (frame_n[1:] != frame_n[:-1])]
        self._row_n = positions[by_frame]
        self._first_F = np.flatnonzero(starts)
        self._views_F = np.diff(np.r_[self._first_F, len(positions)])
        source_F, frame_F = source_n[self._first_F], frame_n[self._first_F]
        self._key_F = stream("order", settings.seed, source_F, frame_F)
        self._offset_F = (bits(stream("views", source_F, frame_F), 0) >> np.uint64(1)).astype(np.int64) % self._views_F
        self._members = self._by_dataset(dataset_R[self._row_n[self._first_F]])
        self._recent: tuple[int, Ints] | None = None

    @staticmethod
    def _by_dataset(dataset_F: Column) -> list[Ints]:
        """The frames of each dataset: arrays of int64 that together hold every frame once."""
        numbers: dict[object, int] = {}
        names = dataset_F.tolist()
        number_F = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64, len(names))
        order = np.argsort(number_F, kind="stable")
        return list(np.split(order, np.cumsum(np.bincount(number_F))[:-1]))

    @property
    def length(self) -> int:
        """Frames (= rows) in an epoch: the same in every epoch."""
        return sum(min(len(members), self._cap) for members in self._members)

    def rows(self, epoch: int) -> Ints:
        """Positions of an epoch's rows in their order, int64 [length], read-only: one view of every frame drawn."""
        recent = self._recent
        if recent is None or recent[0] != epoch:
            recent = self._recent = (epoch, self._draw(epoch))
        return recent[1]

    def _draw(self, epoch: int) -> Ints:
        # Two hashes a frame: were the order to reuse the hash of the draw, capped datasets would all come first.
        lot_F, place_F = bits(self._key_F, 2 * epoch), bits(self._key_F, 2 * epoch + 1)
        drawn = [
            members if len(members) <= self._cap else members[np.argsort(lot_F[members], kind="stable")[: self._cap]]
            for members in self._members
        ]
        frames = np.concatenate(drawn)
        frames = frames[np.argsort(place_F[frames], kind="stable")]
        view = (epoch + self._offset_F[frames]) % self._views_F[frames]
        rows: Ints = self._row_n[self._first_F[frames] + view]
        rows.flags.writeable = False  # it is handed out again for the next batch of this epoch
        return rows

    def steps_per_epoch(self, batch_size: int | None = None) -> int:
        """Batches in an epoch, the short one at the end included; of the recipe's global batch unless told."""
        return -(-self.length // (batch_size or self._batch_size))

    def batch(self, epoch: int, index: int) -> Ints:
        """Positions of the global batch `index` (from 0) of an epoch; ranks take their shares of it."""
        if not 0 <= index < self.steps_per_epoch():
            raise UsageError(f"batch {index} of epoch {epoch} does not exist: an epoch has {self.steps_per_epoch()}")
        return self.rows(epoch)[index * self._batch_size : (index + 1) * self._batch_size].copy()

    def position_of(self, step: int) -> tuple[int, int]:
        """(epoch, batch index) of the global step, from 0."""
        return divmod(step, self.steps_per_epoch())


def first_views(source_R: Column, frame_R: Column, view_R: Column, positions: Ints) -> Ints:
    """The row of each frame's lowest view among `positions`, ascending: what a validation pass reads."""
    positions = np.asarray(positions, dtype=np.int64)
    order = np.lexsort((view_R[positions], frame_R[positions], source_R[positions]))
    source, frame = source_R[positions][order], frame_R[positions][order]
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (source[1:] != source[:-1]) | (frame[1:] != frame[:-1])
    return np.sort(positions[order][starts])
