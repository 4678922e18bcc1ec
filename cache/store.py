"""Reads a store: what stage two and three see. `open_store(path).read(rows)` gives one batch, every row checked.

The manifest is read and checked at opening, the tables of sources and rows when first asked for, a shard's index
when a row of it is first read. Opening therefore costs the same whatever the store holds.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.commits import committed
from usjepa.cache.errors import DamageError, FormatError, HoleError, NotSealedError, StoreError, UsageError
from usjepa.cache.manifest import Manifest, Segment
from usjepa.cache.precision import to_targets
from usjepa.cache.reading import LayerReader, by_shard
from usjepa.cache.state import State, check_layer, read_layer, read_manifest, read_state, root_settings
from usjepa.cache.storage import TABLE_LIMIT, Storage, open_storage, unreadable
from usjepa.cache.tables import RowTable, SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.layers import Layer


@dataclass(frozen=True)
class Batch:
    """Rows as they are stored; every array is fresh memory in the order asked for."""

    rows: NDArray[np.int64]
    """[B] row numbers."""
    arrays: dict[str, NDArray[Any]]
    """Layer name -> [B, *shape]."""
    teacher: str | None
    """Whose latents these are; none when no latents were read."""
    channel_scale: tuple[float, ...] = ()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [B, C, S, S]."""
        return self.arrays["pixels"]

    @property
    def regions(self) -> NDArray[np.uint8]:
        """uint8 [B, n]: a bit a 2x2-pixel cell, NumPy big bit order."""
        return self.arrays["regions"]

    @property
    def latents(self) -> NDArray[Any]:
        """float32, float16 or int8 [B, T, D], as stored."""
        return self.arrays[f"latents/{self.teacher}"]

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """float32 [B, T] for int8 latents, else None."""
        return self.arrays.get(f"scales/{self.teacher}")

    def targets(self, device: str = "cpu") -> torch.Tensor:
        """Return the latents as float32 [B, T, D] on a device; int8 is scaled back there."""
        return to_targets(self.latents, self.scales, self.channel_scale, device)


@dataclass(frozen=True)
class Source:
    """One file, HDF5 data set or phantom patient."""

    path: str
    dataset: str
    group: str
    label: str
    split: str
    content_hash: str
    frames: int
    error: str


@dataclass(frozen=True)
class Table:
    """Where each row comes from: arrays aligned with `Store.rows`."""

    sources: tuple[Source, ...]
    source: NDArray[np.int32]
    """[R'] index into `sources`."""
    frame: NDArray[np.int32]
    """[R'] frame number within the source."""
    view: NDArray[np.int16]
    """[R'] 0 is the plain frame."""

    def _column(self, name: str) -> NDArray[np.object_]:
        values = np.empty(len(self.sources), dtype=object)
        values[:] = [getattr(source, name) for source in self.sources]
        return values[self.source]

    @cached_property
    def dataset(self) -> NDArray[np.object_]:
        """[R'] dataset names."""
        return self._column("dataset")

    @cached_property
    def group(self) -> NDArray[np.object_]:
        """[R'] groups (patients, clips): never to straddle a split."""
        return self._column("group")

    @cached_property
    def label(self) -> NDArray[np.object_]:
        """[R'] labels, "" for none."""
        return self._column("label")

    @cached_property
    def split(self) -> NDArray[np.object_]:
        """[R'] splits, "" for none."""
        return self._column("split")


class Store:
    """One generation of a store, open for reading. Safe to share between threads, to fork and to pickle."""

    def __init__(self, location: str, manifest: Manifest, threads: int) -> None:
        self.location = location
        self.threads = threads
        self._manifest = manifest
        self._storage: Storage = open_storage(location)
        self._pid = -1
        self._readers: dict[str, LayerReader] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Handles and threads belong to a process: a copy opens its own.
        return {"location": self.location, "manifest": self._manifest, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["location"], state["manifest"], state["threads"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.rows)

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

    @property
    def layers(self) -> dict[str, Layer]:
        """Layer name -> what a row of it is."""
        return dict(self._manifest.layers)

    @property
    def latents(self) -> list[str]:
        """Names of the teachers whose latents are stored, sorted."""
        return sorted(name.split("/")[1] for name in self._manifest.layers if name.startswith("latents/"))

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

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows that exist, ascending, int64 [R']."""
        rows = self._manifest.row_numbers()
        # A generation of 0 is an unsealed store: only shards that every layer has finished exist.
        if self.generation == 0:
            lacking = {i for tables in self._manifest.tables.values() for i, table in enumerate(tables) if not table}
            rows = rows[~np.isin(rows // self._manifest.rows_per_shard, sorted(lacking))]
        return rows

    @cached_property
    def table(self) -> Table:
        """Where each row comes from; read and checked on first use."""
        sources: list[Source] = []
        columns: list[tuple[NDArray[Any], ...]] = []
        for segment in self._manifest.segments:
            described, rows = read_tables(self._storage, segment)
            columns.append((rows.source + len(sources), rows.frame, rows.view))
            sources += _sources(described)
        source, frame, view = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        keep = self._positions_in_tables()
        return Table(
            tuple(sources), source[keep].astype(np.int32), frame[keep].astype(np.int32), view[keep].astype(np.int16)
        )

    def _positions_in_tables(self) -> NDArray[np.int64]:
        """Return where in the joined row tables each existing row stands."""
        starts = np.array([segment.first_row for segment in self._manifest.segments], dtype=np.int64)
        counts = np.array([segment.rows for segment in self._manifest.segments], dtype=np.int64)
        before = np.concatenate(([0], np.cumsum(counts)[:-1]))
        segment = np.searchsorted(starts, self.rows, side="right") - 1
        return self.rows - starts[segment] + before[segment]

    def _layer_names(self, layers: Sequence[str] | None, teacher: str | None) -> tuple[list[str], str | None]:
        """Return which layers to read and whose latents are among them."""
        if layers is not None:
            unknown = [name for name in layers if name not in self._manifest.layers]
            if unknown:
                raise UsageError(f"{self.location}: no layer {unknown[0]!r}; it holds {', '.join(self.layers)}.")
            named = [name.split("/")[1] for name in layers if name.startswith("latents/")]
            return list(layers), named[0] if named else None
        if teacher is None and len(self.latents) > 1:
            raise UsageError(
                f"{self.location}: holds latents of {', '.join(self.latents)}: say which (train.teacher, teacher=...)."
            )
        teacher = teacher or (self.latents[0] if self.latents else None)
        if teacher is not None and teacher not in self.latents:
            raise UsageError(
                f"{self.location}: no latents of {teacher!r}; it holds {', '.join(self.latents) or 'none'}."
            )
        mine = [f"latents/{teacher}", f"scales/{teacher}"] if teacher else []
        return [name for name in ("pixels", "regions", *mine) if name in self._manifest.layers], teacher

    def read(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        layers: Sequence[str] | None = None,
        teacher: str | None = None,
    ) -> Batch:
        """Read rows into fresh memory, in the order asked for; repeats are allowed.

        Args:
            rows: [B] row numbers.
            layers: layer names; none: pixels, regions and one teacher's latents.
            teacher: whose latents; none: the store's only teacher.

        Raises:
            HoleError: a row number holds no data.
            DamageError: a row's bytes are not those that were built.
            UsageError: a layer or teacher that the store does not hold.
        """
        numbers = np.asarray(rows, dtype=np.int64).reshape(-1)
        names, teacher = self._layer_names(layers, teacher)
        self._check_rows(numbers)
        arrays = {
            name: np.empty((len(numbers), *self.layers[name].shape), self._manifest.layers[name].dtype)
            for name in names
        }
        groups = by_shard(numbers, self._manifest.rows_per_shard)
        readers, pool = self._own()
        jobs = [
            _Job(readers[name], shard, part, places, arrays[name].reshape(-1).view(np.uint8).data)
            for name in names
            for shard, part, places in groups
        ]
        self._run(jobs, pool)
        channels = self._manifest.layers[f"latents/{teacher}"].channel_scale if teacher else ()
        return Batch(numbers, arrays, teacher, channels)

    def _check_rows(self, numbers: NDArray[np.int64]) -> None:
        place = np.searchsorted(self.rows, numbers)
        known = place < len(self.rows)
        known[known] = self.rows[place[known]] == numbers[known]
        if not known.all():
            row = int(numbers[~known][0])
            reasons = dict(self._manifest.holes)
            why = f": {reasons[row]}" if row in reasons else f"; `rows` lists the {len(self.rows):,} that do"
            raise HoleError(f"{self.location}: row {row} holds no data{why}.")

    def _run(self, jobs: list[_Job], pool: ThreadPoolExecutor | None) -> None:
        pieces = list(_balanced(jobs, self.threads))
        if pool is None or len(pieces) < 2:
            for piece in pieces:
                self._work(piece)
            return
        futures = [pool.submit(self._work, piece) for piece in pieces]
        errors = [future.exception() for future in futures]  # all have ended: none writes into the batch any more
        for error in errors:
            if error is not None:
                raise error

    def _work(self, piece: list[_Job]) -> None:
        for job in piece:
            try:
                job.read()
            except (DamageError, HoleError) as error:
                raise type(error)(f"{error}{self._origin(str(error), job.rows)}") from error

    def _origin(self, message: str, rows: list[int]) -> str:
        """Return which source the damaged row shows, for the error message."""
        named = [row for row in rows if f"row {row} " in message]
        if not named:
            return ""
        position = int(np.searchsorted(self.rows, named[0]))
        source = self.table.sources[int(self.table.source[position])]
        return (
            f" It shows {source.path}, frame {int(self.table.frame[position])}, view {int(self.table.view[position])}."
        )

    def _own(self) -> tuple[dict[str, LayerReader], ThreadPoolExecutor | None]:
        """Return this process's readers and threads, making them anew after a fork."""
        if self._pid != os.getpid():
            self._storage = open_storage(self.location)
            tables = self._manifest.tables
            self._readers = {
                name: LayerReader(self._storage, layer, tables[name]) for name, layer in self._manifest.layers.items()
            }
            self._pool = ThreadPoolExecutor(self.threads, "usjepa-read") if self.threads > 1 else None
            self._pid = os.getpid()
        return self._readers, self._pool

    def close(self) -> None:
        """Close files and threads; the store opens them again when it is read again."""
        if self._pid == os.getpid():
            for reader in self._readers.values():
                reader.close()
            if self._pool is not None:
                self._pool.shutdown()
        self._pid = -1


@dataclass(frozen=True)
class _Job:
    """Rows of one shard of one layer, and where in the batch they go."""

    reader: LayerReader
    shard: int
    rows: list[int]
    places: list[int]
    out: memoryview

    def read(self) -> None:
        """Read the rows; once more, from a freshly opened file, when a share gave a stale handle or stale bytes."""
        try:
            self.reader.read_shard_rows(self.shard, self.rows, self.places, self.out)
            return
        except (DamageError, OSError):
            self.reader.forget(self.shard)
        try:
            self.reader.read_shard_rows(self.shard, self.rows, self.places, self.out)
        except OSError as error:
            raise unreadable(self.reader.where(self.shard), error) from error

    def cut(self, start: int, stop: int) -> _Job:
        return _Job(self.reader, self.shard, self.rows[start:stop], self.places[start:stop], self.out)


def _balanced(jobs: list[_Job], parts: int) -> Iterator[list[_Job]]:
    """Cut jobs into at most `parts` pieces of about equal bytes, splitting a shard's rows where needed."""
    total = sum(job.reader.layer.row_nbytes * len(job.rows) for job in jobs)
    budget = -(-total // max(1, parts))
    piece: list[_Job] = []
    left = budget
    for job in jobs:
        each, start = job.reader.layer.row_nbytes, 0
        while start < len(job.rows):
            take = min(len(job.rows) - start, max(1, -(-left // each)))
            piece.append(job.cut(start, start + take))
            start += take
            left -= take * each
            if left <= 0:
                yield piece
                piece, left = [], budget
    if piece:
        yield piece


def _sources(described: SourceTable) -> list[Source]:
    columns = [getattr(described, name) for name in Source.__dataclass_fields__]
    return [Source(*[v.item() if hasattr(v, "item") else v for v in values]) for values in zip(*columns, strict=True)]


def read_tables(storage: Storage, segment: Segment) -> tuple[SourceTable, RowTable]:
    """Return a segment's tables; raises DamageError when they are not the ones that were written."""
    data = []
    for name, expected in (("sources", segment.sources_hash), ("rows", segment.rows_hash)):
        file = f"{segment.folder}/{name}.parquet"
        try:
            content = storage.read(file, TABLE_LIMIT)
        except FileNotFoundError as error:
            raise DamageError(f"{storage.url}/{file}: missing, though the segment is finished.") from error
        if xxhash.xxh3_128_hexdigest(content) != expected:
            raise DamageError(f"{storage.url}/{file}: not the table that was written: damaged or replaced.")
        data.append(content)
    sources, rows = SourceTable.from_parquet(data[0]), RowTable.from_parquet(data[1], most=segment.rows)
    if len(rows) != segment.rows or (len(rows) and not 0 <= rows.source.min() <= rows.source.max() < len(sources)):
        raise DamageError(
            f"{storage.url}/{segment.folder}: its tables do not hold {segment.rows:,} rows of its sources."
        )
    return sources, rows


def open_store(path: str | Path, allow_partial: bool = False, generation: int | None = None, threads: int = 2) -> Store:
    """Open a sealed store for reading.

    Args:
        path: folder or URL.
        allow_partial: open an unsealed store too; only rows that every layer has finished exist then.
        generation: an older generation than the newest.
        threads: threads that read.

    Raises:
        FormatError: no store, or one of a newer major format.
        NotSealedError: its build has not finished.
        DamageError: its manifest or a layer's description is damaged.
    """
    storage = open_storage(path)
    if isinstance(path, Path) and not path.exists():
        raise FormatError(f"{path}: no such folder.")
    root_settings(storage)
    manifest = read_manifest(storage, generation)
    if manifest is None:
        if generation is not None:
            raise StoreError(f"{storage.url}: has no generation {generation}.")
        state = read_state(storage)
        if not allow_partial:
            raise NotSealedError(
                f"{storage.url}: not sealed: {progress_text(storage, state)}. Run its build command again."
            )
        manifest = _partial(storage, state)
    for layer in manifest.layers.values():
        check_layer(storage, layer, read_layer(storage, layer.name))
    return Store(storage.url, manifest, threads)


def progress_text(storage: Storage, state: State) -> str:
    """Return how far each layer of an unsealed store is."""
    if not state.layers:
        return "nothing is built yet"
    done = {name: len(committed(storage, layer)) for name, layer in state.layers.items()}
    return ", ".join(f"{name} {count}/{state.shard_count} shards" for name, count in done.items())


def _partial(storage: Storage, state: State) -> Manifest:
    """Return what is committed so far as a generation 0; shards not yet built have an empty table hash."""
    found = {name: committed(storage, layer) for name, layer in state.layers.items()}
    shards = range(state.shard_count)
    return Manifest(
        0,
        state.rows_per_shard,
        state.segments,
        state.layers,
        {name: tuple(c[i].table if i in c else "" for i in shards) for name, c in found.items()},
        dict.fromkeys(found, ()),
        tuple(sorted({hole for c in found.values() for commit in c.values() for hole in commit.holes})),
    )
