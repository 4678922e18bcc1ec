"""Serve a store as a `torch.utils.data.Dataset`, for training loops of your own.

The dataset is map-style and reads a whole batch at once (`__getitems__`, which `DataLoader` calls if it exists). It
holds no open file until it is read from, so it can be pickled and forked: DataLoader workers of any start method open
the store for themselves.

`usjepa-train` uses `batches.py` instead, which needs no worker processes and resumes exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.cells import patch_validity
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.several.stores import Stores, open_stores
from usjepa.train.data.crossing import split_of
from usjepa.train.data.order import first_views_of
from usjepa.train.objective.targets import stored_latents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store

logger = logging.getLogger(__name__)

Item = dict[str, torch.Tensor]
_PARTS = ("train", "validation", "all")


class StoreDataset(Dataset[Item]):
    """Rows of a sealed store, or of several as one; the checksum of every row is checked as it is read.

    An item is a dict of tensors, which `default_collate` stacks into a batch:

    * `row`: int64, the row number, from which masks are drawn (`usjepa.train.sample_masks`);
    * `pixels`: uint8 [C, S, S];
    * `latents`: float32 [T, D], dequantised if stored as int8;
    * `valid`: bool [T], the patch touches the scan (USrc-JEPA's region, arXiv 2602.19322); left out where the grid's
      patches do not align with the store's 2x2-pixel cells.

    Attributes:
        store: the open store, or stores.
        teacher: name of the latents.
        grid: patches down and across.
        dim: D, width of the latents.
        positions: int64, the rows of this part as ascending positions in the store's table.
    """

    def __init__(
        self,
        store: str | Path | Sequence[str | Path],
        part: str = "train",
        teacher: str | None = None,
        settings: TrainSettings | None = None,
        generation: int | Sequence[int | None] | None = None,
    ) -> None:
        """Open a store and choose rows.

        Args:
            store: folder or URL, or several, which are read as one (see `open_stores`).
            part: `train` (every view of the frames trained on), `validation` (view 0 of the frames of held-out
                groups), or `all` rows, test ones included.
            teacher: name of the latents; None: those of the store's only teacher.
            settings: `exclude_splits` and `validation_fraction` decide the parts, as in `usjepa-train`; None: defaults.
            generation: of the store, or of each of several; None: the newest. Record it to read the same rows again
                from a store that grows.

        Raises:
            NotSealedError: the store's build has not finished.
            UsageError: no such part or teacher, or no row is left to train on.
            IdentityError: several stores do not fit each other.
        """
        if part not in _PARTS:
            raise UsageError(f"part={part!r} does not exist: choose one of {', '.join(_PARTS)}.")
        # One thread: the workers of a DataLoader are the parallelism.
        self.store = _opened(store, teacher, generation)
        targets = stored_latents(self.store, teacher)
        self.teacher, self.grid, self.dim = targets.name, targets.grid, targets.dim
        patch, rest = divmod(self.store.size, self.grid[0])
        self._patch = 0 if rest or patch % 2 else patch
        self.positions = self._positions(part, settings or TrainSettings())

    def _positions(self, part: str, settings: TrainSettings) -> NDArray[np.int64]:
        """Return positions in the store's table, int64, ascending."""
        if part == "all":
            return np.arange(len(self.store), dtype=np.int64)
        table = self.store.table
        split, notes = split_of(self.store, settings)
        for note in notes:
            logger.info(note)
        if part == "train":
            return np.asarray(split.train)
        return first_views_of(table, split.validation)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items at `indices`, in that order, read together.

        Raises:
            IndexError: an index is outside the dataset.
            DamageError: a row's checksum does not match.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"An index is outside the {len(self):,} rows of this dataset.")
        read = self.store.read(self.store.row_numbers(self.positions[wanted]), teacher=self.teacher)
        columns: dict[str, Any] = {
            "row": torch.from_numpy(read.rows),
            "pixels": torch.from_numpy(read.pixels),
            "latents": read.targets(),
        }
        if self._patch:
            columns["valid"] = torch.from_numpy(patch_validity(read.regions, self.store.size, self._patch))
        return [{name: column[i] for name, column in columns.items()} for i in range(len(wanted))]


def _opened(
    store: str | Path | Sequence[str | Path], teacher: str | None, generation: int | Sequence[int | None] | None
) -> Store | Stores:
    """Open one store or several, which must agree in the layers that are read."""
    if isinstance(store, (str, Path)):
        if isinstance(generation, Sequence):
            raise UsageError(f"{store}: one store has one generation, not {list(generation)}.")
        return open_store(store, generation=generation, threads=1)
    generations = [generation] * len(store) if generation is None or isinstance(generation, int) else generation
    parts = open_stores(store, (), generations, threads=1).parts
    names = {f"latents/{stored_latents(part, teacher).name}" for part in parts}
    return Stores(parts, ["pixels", "regions", *sorted(names)])
