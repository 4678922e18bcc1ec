"""Open a store and read batches of it: `open_store(path).read(rows)`, every row checked.

The manifest is read and checked at opening, the tables of sources and rows at their first use, a shard's index when a
row of it is first read. So opening costs the same whatever the store holds.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import (
    DamageError,
    FormatError,
    HoleError,
    NotSealedError,
    StoreError,
    UsageError,
    WithdrawnError,
)
from usjepa.cache.lazy import lazy
from usjepa.cache.places.runs import Runs
from usjepa.cache.reading.arrays import dask_array_of, zarr_array_of
from usjepa.cache.reading.batch import Batch
from usjepa.cache.reading.batch_memory import memory_for
from usjepa.cache.reading.batch_reader import BatchReader
from usjepa.cache.reading.process import PerProcess
from usjepa.cache.storage.location import at_once, open_storage
from usjepa.cache.store.origins import Origin, Table, spacing_of, table_of
from usjepa.cache.store.state import (
    check_layer,
    kept_generations,
    partial_manifest,
    progress_text,
    read_layer,
    read_manifest,
    read_state,
    refuse_unfinished,
    root_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import dask.array
    import zarr
    from numpy.typing import NDArray

    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.identity import Json
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer


def codings_of(layers: Mapping[str, Layer], names: Iterable[str]) -> dict[str, Coding]:
    """Return teacher -> coding, of those named layers that have one."""
    coded = [layer for layer in map(layers.__getitem__, names) if layer.coding is not None]
    return {str(layer.teacher): layer.coding for layer in coded if layer.coding is not None}


class Store:
    """One generation of a store, open for reading. Safe to share between threads, to fork and to pickle."""

    def __init__(self, location: str, manifest: Manifest, threads: int, check_rows: bool = True) -> None:
        self.location = location
        self.threads = threads
        self.check_rows = check_rows
        self._manifest = manifest
        self._storage: Storage = open_storage(location)
        self._reader = PerProcess(self._new_reader)
        self._named: dict[tuple[tuple[str, ...] | None, str | None], tuple[list[str], str | None]] = {}
        """(layers, teacher) as they were asked for -> which those are: the same in every batch."""

    def _new_reader(self) -> BatchReader:
        layers = [(layer, self._manifest.tables[name]) for name, layer in self._manifest.layers.items()]
        return BatchReader(open_storage(self.location), layers, self.threads, self.check_rows, self._runs)

    def __getstate__(self) -> dict[str, Any]:
        # Handles and threads belong to a process: a copy opens its own.
        return {
            "location": self.location,
            "manifest": self._manifest,
            "threads": self.threads,
            "check_rows": self.check_rows,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<Store {self.location}: generation {self.generation}, {len(self):,} rows, {', '.join(self.layers)}>"

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
    def parts(self) -> tuple[Store, ...]:
        """The stores that this one is made of: itself; see `Stores`."""
        return (self,)

    def place_of(self, row: int) -> tuple[Store, int]:
        """Return the store that a row lies in, this one, and its number there; see `Stores`."""
        return self, row

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

    def _layer_names(self, layers: Sequence[str] | None, teacher: str | None) -> tuple[list[str], str | None]:
        """Return which layers to read and whose latents are among them.

        The largest rows first: what is left for the end of a batch is shared out finely among threads.
        """
        described = self._manifest.layers
        if layers is not None:
            self._check_layers(layers)
            named = [described[name].teacher for name in layers if described[name].kind == "latents"]
            names, teacher = list(dict.fromkeys(layers)), named[0] if named else None
        else:
            teacher = self._chosen(teacher)
            mine = [f"latents/{teacher}", f"scales/{teacher}"] if teacher else []
            names = [name for name in ("pixels", "regions", *mine) if name in described]
        return sorted(names, key=lambda name: -described[name].row_nbytes), teacher

    def _check_layers(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._manifest.layers]
        if unknown:
            raise UsageError(f"{self.location}: no layer {unknown[0]!r}; it holds {', '.join(self.layers)}.")

    def _chosen(self, teacher: str | None) -> str | None:
        """Return the teacher whose latents to read, None where the store holds none."""
        if teacher is None and len(self.latents) > 1:
            raise UsageError(
                f"{self.location}: holds latents of several teachers ({', '.join(self.latents)}). "
                "Choose one: train.teacher in a recipe, teacher=... in Python."
            )
        teacher = teacher or (self.latents[0] if self.latents else None)
        if teacher is not None and teacher not in self.latents:
            raise UsageError(
                f"{self.location}: no latents of {teacher!r}; it holds {', '.join(self.latents) or 'none'}."
            )
        return teacher

    def read(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        layers: Sequence[str] | None = None,
        teacher: str | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
    ) -> Batch:
        """Read rows, in the order asked for; repeats are allowed.

        Args:
            rows: [B] row numbers.
            layers: layer names; none: pixels, regions and one teacher's latents.
            teacher: whose latents; none: the store's only teacher.
            out: layer name -> C-contiguous array [>= B, *shape] of the stored dtype to read into, best from
                `batch_memory.BatchMemory`; none: fresh memory. What it holds after an error is not data.

        Raises:
            HoleError: a row number holds no data.
            DamageError: a row's bytes are not those that were built.
            UsageError: a layer or teacher that the store does not hold, or memory that does not fit.
        """
        numbers: NDArray[np.int64] = np.array(rows, np.int64).reshape(-1)  # a copy: the batch's own
        wanted = (None if layers is None else tuple(layers), teacher)
        if wanted not in self._named:
            self._named[wanted] = self._layer_names(*wanted)
        names, teacher = self._named[wanted]
        described = self._manifest.layers
        arrays = {name: memory_for(described[name], len(numbers), out) for name in names}
        self.read_into(numbers, arrays)
        channels = described[f"latents/{teacher}"].channel_scale if teacher else ()
        return Batch(numbers, arrays, teacher, channels, codings=codings_of(described, names))

    def read_into(
        self,
        numbers: NDArray[np.int64],
        arrays: Mapping[str, NDArray[Any]],
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """Read [n] row numbers into an array of each layer; raises HoleError and DamageError as `read` does.

        Args:
            numbers: [n] row numbers.
            arrays: layer name -> C-contiguous array [>= n, *shape] of the stored dtype.
            places: [n] where in the arrays each row goes; none: in order. `Stores` fills a batch so.
        """
        self._check_numbers(numbers)
        if not len(numbers) or not arrays:
            return
        try:
            self._reader.get().read(numbers, arrays, places)
        except (DamageError, HoleError) as error:
            self._name_source(error)
            raise

    def _name_source(self, error: DamageError | HoleError) -> None:
        """Add the source of its row to an error, where the tables can still be read."""
        if error.row is not None:
            with contextlib.suppress(StoreError):
                error.show(str(self.origin_of(error.row)))

    def _check_numbers(self, numbers: NDArray[np.int64]) -> None:
        """Raise HoleError where a number is not a row's."""
        known = self._runs.find(numbers)[1]
        if not known.all():
            row = int(numbers[~known][0])
            reasons = dict(self._manifest.holes)
            why = f": {reasons[row]}" if row in reasons else f"; `rows` lists the {len(self):,} that do"
            raise HoleError(f"{self.location}: row {row} holds no data{why}.", row=row)

    def origin_of(self, row: int) -> Origin:
        """Return the source, frame and view that a row shows.

        Raises:
            HoleError: the row holds no data.
            DamageError: a table of sources or rows is damaged.
        """
        number = np.array([row], np.int64)
        self._check_numbers(number)
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
        self._check_numbers(numbers)
        return self.spacing[self._runs.find(numbers)[0]]

    def zarr_array(self, layer: str) -> zarr.Array[Any]:
        """Return a layer opened read-only by zarr-python, [rows, *shape], for looking at it with other tools.

        Indexed by row number. Nothing is checked against its place, as `read` does; a hole reads as the fill value (NaN
        in float layers, else 0), and while a store grows the array may be longer than this generation.
        """
        self._check_layers([layer])
        return zarr_array_of(self._storage, layer)

    def dask_array(self, layer: str) -> dask.array.Array:
        """Return a layer as a lazy array [R', *shape] of the stored dtype, a block per shard, each read by `read`.

        Indexed as `rows`: entry i is row `rows[i]`, so holes take no place. What is read raises as `read` does.
        """
        self._check_layers([layer])
        return dask_array_of(self.read, self.rows, self._manifest.layers[layer])

    def close(self) -> None:
        """Close files and threads; the store opens them again when it is read again."""
        self._reader.close()


def open_store(
    path: str | Path,
    allow_partial: bool = False,
    generation: int | None = None,
    threads: int = 2,
    check_rows: bool = True,
) -> Store:
    """Open a sealed store for reading.

    Args:
        path: folder or URL.
        allow_partial: open an unsealed store too; only rows that every layer has finished exist then.
        generation: an older generation than the newest.
        threads: threads that read from a disk, the calling one among them; an object storage is asked for all at once.
        check_rows: False skips the checksums of rows, to measure what they cost; damage goes unnoticed then.

    Raises:
        FormatError: no store, or one of a newer major format.
        NotSealedError: its build, or a copy into it or a removal from it, has not finished.
        WithdrawnError: rows of that generation were removed since.
        DamageError: its manifest or a layer's description is damaged.
    """
    storage = open_storage(path)
    if isinstance(path, Path) and not path.exists():
        raise FormatError(f"{path}: no such folder.")
    asked: list[Callable[[], Any]] = [
        partial(root_settings, storage),
        partial(refuse_unfinished, storage),
        partial(read_manifest, storage, generation),
    ]
    manifest: Manifest | None = at_once(storage, asked)[-1]
    if manifest is not None and generation is not None:
        _refuse_withdrawn(storage, generation)
    if manifest is None:
        if generation is not None:
            raise StoreError(f"{storage.url}: has no generation {generation}.")
        state = read_state(storage)
        if not allow_partial:
            raise NotSealedError(
                f"{storage.url}: not sealed: {progress_text(storage, state)}. Run its build command again."
            )
        manifest = partial_manifest(storage, state)
    layers = at_once(storage, [partial(read_layer, storage, name) for name in manifest.layers])
    for layer, found in zip(manifest.layers.values(), layers, strict=True):
        check_layer(storage, layer, found)
    return Store(storage.url, manifest, threads, check_rows)


def _refuse_withdrawn(storage: Storage, generation: int) -> None:
    newest = read_manifest(storage)
    if newest is not None and generation < newest.withdrawn_since:
        raise WithdrawnError(
            f"{storage.url}: rows that generation {generation} holds were withdrawn in generation "
            f"{newest.withdrawn_since}. Use a generation from that one on; a training that began on an earlier one "
            "can't go on: begin a new run."
        )
