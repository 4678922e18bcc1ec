"""Tell what a generation of a store holds: layers, rows, and their origins.

The tables of sources and rows are read at their first use: what an open store costs does not depend on its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import HoleError, UsageError
from usjepa.cache.lazy import lazy
from usjepa.cache.places.runs import Runs
from usjepa.cache.store.origins.segment_tables import sources_in_batches
from usjepa.cache.store.origins.spacing import spacing_of
from usjepa.cache.store.origins.table import Origin, Table, table_of
from usjepa.cache.store.state import kept_generations, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer


class Contents:
    """What one generation of a store holds; `store.Store` reads it."""

    def __init__(self, location: str, storage: Storage, manifest: Manifest) -> None:
        self.location = location
        self._storage = storage
        self._manifest = manifest

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def storage(self) -> Storage:
        """Where the store's files lie."""
        return self._storage

    @property
    def manifest(self) -> Manifest:
        """The generation this store object reads."""
        return self._manifest

    @property
    def generation(self) -> int:
        """Number of the generation, 0 for an unsealed store opened with allow_partial."""
        return self._manifest.generation

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of the generation's content."""
        return self._manifest.digest

    def content_digest(self, layers: Iterable[str] = ()) -> str:
        """Return the xxh3-128 (hex) of which rows exist, what they show, and what they hold in `layers`.

        Unlike `digest` it outlives audits, exact repairs and other teachers' layers.
        """
        return self._manifest.content_digest(layers)

    def generations(self) -> Iterator[Manifest]:
        """Yield this generation and every other one that the store keeps, newest first.

        Raises:
            DamageError: the manifest of one is damaged.
        """
        yield self._manifest
        for number in reversed(kept_generations(self._storage)):
            manifest = read_manifest(self._storage, number) if number != self.generation else None
            if manifest is not None:
                yield manifest

    @property
    def layers(self) -> dict[str, Layer]:
        """Layer name -> what a row of it is."""
        return dict(self._manifest.layers)

    @property
    def latents(self) -> list[str]:
        """Names of the teachers whose latents are stored, sorted."""
        return sorted(str(layer.teacher) for layer in self._manifest.layers.values() if layer.kind == "latents")

    @property
    def identity(self) -> dict[str, dict[str, Json]]:
        """Layer name -> hard identity."""
        return {name: layer.identity for name, layer in self._manifest.layers.items()}

    @property
    def channels(self) -> int:
        """C of the pixels."""
        return self._manifest.layers["pixels"].shape[0]

    @property
    def size(self) -> int:
        """S, edge of the square pixels."""
        return self._manifest.layers["pixels"].shape[1]

    @lazy
    def rows(self) -> NDArray[np.int64]:
        """The rows that exist, ascending, int64 [R']."""
        return np.asarray(self._runs)

    def row_numbers(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return `rows[positions]`, [n], without an array of all rows."""
        numbers: NDArray[np.int64] = self._runs[positions]
        return numbers

    @lazy
    def _runs(self) -> Runs:
        runs = self._manifest.rows()
        # A generation of 0 is an unsealed store: only shards that every layer has finished exist.
        if self.generation == 0:
            lacking = {i for tables in self._manifest.tables.values() for i, table in enumerate(tables) if not table}
            rows = np.asarray(runs)
            rows = rows[~np.isin(rows // self._manifest.rows_per_shard, sorted(lacking))]
            runs = Runs.of(rows, np.ones_like(rows))
        return runs

    @lazy
    def table(self) -> Table:
        """Where each row comes from; read and checked on first use."""
        return table_of(self._storage, self._manifest.segments, self._runs)

    def _check_layers(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._manifest.layers]
        if unknown:
            raise UsageError(f"{self.location}: no layer {unknown[0]!r}; it holds {', '.join(self.layers)}.")

    def _check_numbers(self, numbers: NDArray[np.int64], least: int, most: int) -> None:
        """Raise HoleError where one of numbers from `least` to `most` is not a row's."""
        if self._runs.holds(least, most + 1):
            return  # no hole lies between any of them, as in most stores: nothing else to ask in every batch
        known = self._runs.find(numbers)[1]
        if not known.all():
            row = int(numbers[~known][0])
            reasons = dict(self._manifest.holes)
            why = f": {reasons[row]}" if row in reasons else f"; `rows` lists the {len(self):,} that do"
            raise HoleError(f"{self.location}: row {row} holds no data{why}.", row=row)

    def frame_sizes(self) -> NDArray[np.int64]:
        """Return height and width in pixels of each source's first frame, [sources, 2], as they are before cutting."""
        parts = [
            np.array(lists, dtype=np.int64).T
            for segment in self._manifest.segments
            for lists in sources_in_batches(self._storage, segment, "height", "width")
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)

    def origin_of(self, row: int) -> Origin:
        """Return the source, frame and view that a row shows.

        Raises:
            HoleError: the row holds no data.
            DamageError: a table of sources or rows is damaged.
        """
        number = np.array([row], np.int64)
        self._check_numbers(number, row, row)
        return self.table.origin(int(self._runs.find(number)[0][0]))

    @lazy
    def spacing(self) -> NDArray[np.float64]:
        """Millimetres per stored pixel of each row of `rows`, down and across, float64 [R', 2]; NaN where not known.

        As the source's header gives it, scaled with the crop and resize of the view. Read on first use.
        """
        return spacing_of(self._storage, self._manifest.segments, self._runs)

    def spacing_of(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return the spacing of rows in the order asked for, float64 [B, 2], see `spacing`.

        Raises:
            HoleError: a row number holds no data.
            DamageError: a table of rows is damaged.
        """
        numbers = np.array(rows, np.int64).reshape(-1)
        if len(numbers):
            self._check_numbers(numbers, int(numbers.min()), int(numbers.max()))
        return self.spacing[self._runs.find(numbers)[0]]
