"""Open a store and read batches of it: `open_store(path).read(rows)`, every row checked.

The manifest is read and checked at opening, the tables of sources and rows at their first use, a shard's index when a
row of it is first read. So opening costs the same whatever the store holds.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from usjepa.cache.reading.arrays import dask_array_of, zarr_array_of
from usjepa.cache.reading.batch import Batch
from usjepa.cache.reading.batch_memory import memory_for
from usjepa.cache.reading.batch_reader import BatchReader
from usjepa.cache.reading.contents import Contents
from usjepa.cache.reading.layer_reader import ReadPlan
from usjepa.cache.reading.process import PerProcess
from usjepa.cache.storage.location import at_once, open_storage
from usjepa.cache.store.state import (
    check_layer,
    partial_manifest,
    progress_text,
    read_layer,
    read_manifest,
    read_state,
    refuse_unfinished,
    root_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import dask.array
    import zarr
    from numpy.typing import NDArray

    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer


def codings_of(layers: Mapping[str, Layer], names: Iterable[str]) -> dict[str, Coding]:
    """Return teacher -> coding, of those named layers that have one."""
    coded = [layer for layer in map(layers.__getitem__, names) if layer.coding is not None]
    return {str(layer.teacher): layer.coding for layer in coded if layer.coding is not None}


class _Wanted(NamedTuple):
    """What a batch holds beside its rows."""

    layers: list[Layer]
    teacher: str | None
    channel_scale: tuple[float, ...]
    codings: dict[str, Coding]


class Store(Contents):
    """One generation of a store, open for reading. Safe to share between threads, to fork and to pickle."""

    def __init__(self, location: str, manifest: Manifest, threads: int, check_rows: bool = True) -> None:
        super().__init__(location, open_storage(location), manifest)
        self.threads = threads
        self.check_rows = check_rows
        self._reader = PerProcess(self._new_reader)
        self._wanted: dict[tuple[tuple[str, ...] | None, str | None], _Wanted] = {}
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

    def __repr__(self) -> str:
        return f"<Store {self.location}: generation {self.generation}, {len(self):,} rows, {', '.join(self.layers)}>"

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores that this one is made of: itself; see `Stores`."""
        return (self,)

    def place_of(self, row: int) -> tuple[Store, int]:
        """Return the store that a row lies in, this one, and its number there; see `Stores`."""
        return self, row

    def _wanted_by(self, layers: Sequence[str] | None, teacher: str | None) -> _Wanted:
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
        names.sort(key=lambda name: -described[name].row_nbytes)
        channel_scale = described[f"latents/{teacher}"].channel_scale if teacher else ()
        return _Wanted([described[name] for name in names], teacher, channel_scale, codings_of(described, names))

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
        asked = (None if layers is None else tuple(layers), teacher)
        wanted = self._wanted.get(asked)
        if wanted is None:
            wanted = self._wanted[asked] = self._wanted_by(*asked)
        arrays = {layer.name: memory_for(layer, len(numbers), out) for layer in wanted.layers}
        self.read_into(numbers, arrays)
        return Batch(numbers, arrays, wanted.teacher, wanted.channel_scale, codings=wanted.codings)

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
        if not len(numbers):
            return
        plan = ReadPlan.of(numbers, self._manifest.rows_per_shard, places)
        self._check_numbers(numbers, plan.rows[0], plan.rows[-1])
        if not arrays:
            return
        try:
            self._reader.get().read(plan, arrays)
        except (DamageError, HoleError) as error:
            self._name_source(error)
            raise

    def _name_source(self, error: DamageError | HoleError) -> None:
        """Add the source of its row to an error, where the tables can still be read."""
        if error.row is not None:
            with contextlib.suppress(StoreError):
                error.show(str(self.origin_of(error.row)))

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
