"""Open several stores and read them as one: `open_stores(paths).read(rows)`.

Rows are numbered store after store: those of the first keep their numbers, those of the next follow one past the
number of its last, as in one store that was built of all sources at once. Masks and noise are drawn by these numbers,
so a training takes the same batches from either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import DamageError, HoleError, UsageError
from usjepa.cache.identity import digest_of
from usjepa.cache.lazy import lazy
from usjepa.cache.places.runs import Runs
from usjepa.cache.reading.batch import Batch
from usjepa.cache.reading.batch_memory import memory_for
from usjepa.cache.reading.process import PerProcess
from usjepa.cache.reading.store import codings_of, open_store
from usjepa.cache.reading.workers import Workers
from usjepa.cache.several.choosing import chosen_layers
from usjepa.cache.several.fitting import fitting_layers, refuse_repeats
from usjepa.cache.several.joining import Joined, join
from usjepa.cache.several.naming import short_names
from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.origins.table import Origin, Table

    Ints = NDArray[np.int64]


class Stores:
    """Several stores, open to be read as one. Safe to share between threads, to fork and to pickle."""

    def __init__(self, parts: Sequence[Store], layers: Sequence[str] | None = None) -> None:
        """Take sealed stores in their order; see `open_stores` for `layers` and what is raised."""
        if not parts:
            raise UsageError("no store was given: give one or more.")
        refuse_repeats(parts)
        self._parts, self._wanted = tuple(parts), None if layers is None else tuple(layers)
        self._layers = fitting_layers(parts, layers)
        self._first = np.cumsum([0, *(part.manifest.extent for part in parts[:-1])], dtype=np.int64)
        """[K] number of the first row of each store."""
        self._waits = [not isinstance(part.storage, LocalStorage) for part in parts]
        self._workers = PerProcess(self._new_workers)

    def _new_workers(self) -> Workers:
        return Workers(len(self._parts) - 1)

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "layers": self._wanted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<Stores {', '.join(self.names)}: {len(self):,} rows, {', '.join(self.layers)}>"

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores, in their order."""
        return self._parts

    @property
    def names(self) -> tuple[str, ...]:
        """A short name of each store."""
        return short_names([part.location for part in self._parts])

    @property
    def location(self) -> str:
        """Where all of them lie, for messages."""
        return " + ".join(part.location for part in self._parts)

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of the digests of all stores, in their order."""
        return digest_of([part.digest for part in self._parts])

    def content_digest(self, layers: Iterable[str] = ()) -> str:
        """Return the xxh3-128 (hex) of the content digests of all stores, in their order."""
        names = tuple(layers)
        return digest_of([part.content_digest(names) for part in self._parts])

    @property
    def layers(self) -> dict[str, Layer]:
        """Layer name -> what a row of it is, as the first store describes it."""
        return dict(self._layers)

    @property
    def latents(self) -> list[str]:
        """Names of the teachers whose latents can be read, sorted."""
        return sorted(str(layer.teacher) for layer in self._layers.values() if layer.kind == "latents")

    @property
    def identity(self) -> dict[str, dict[str, Json]]:
        """Layer name -> hard identity, the same in all stores."""
        return {name: layer.identity for name, layer in self._layers.items()}

    @property
    def channels(self) -> int:
        """C of the pixels."""
        return self._parts[0].channels

    @property
    def size(self) -> int:
        """S, edge of the square pixels."""
        return self._parts[0].size

    @lazy
    def rows(self) -> Ints:
        """The rows that exist, ascending, int64 [R']."""
        return np.asarray(self._runs)

    @lazy
    def _runs(self) -> Runs:
        every = [part.manifest.rows() if part.generation else Runs.like(part.rows) for part in self._parts]
        first = np.concatenate([first + runs.first_r for first, runs in zip(self._first, every, strict=True)])
        return Runs.of(first, np.concatenate([runs.counts_r for runs in every]))

    def row_numbers(self, positions: NDArray[np.integer[Any]]) -> Ints:
        """Return `rows[positions]`, [n], without an array of all rows."""
        numbers: Ints = self._runs[positions]
        return numbers

    @lazy
    def joined(self) -> Joined:
        """One table of all stores, and what several of them hold; read and checked on first use."""
        found = join([part.table for part in self._parts])
        for part in self._parts:
            vars(part).pop("table", None)  # it would be held twice; the store reads it again to name a damaged row
        return found

    @property
    def table(self) -> Table:
        """Where each row comes from, aligned with `rows`."""
        return self.joined.table

    def part_of(self, rows: Ints) -> Ints:
        """Return which of the stores each row lies in, int64 [n] from 0; rows that are in none go to the nearest."""
        return np.maximum(np.searchsorted(self._first, rows, side="right") - 1, 0)

    def place_of(self, row: int) -> tuple[Store, int]:
        """Return the store that a row lies in, and its number there."""
        part = int(self.part_of(np.array([row], np.int64))[0])
        return self._parts[part], row - int(self._first[part])

    def origin_of(self, row: int) -> Origin:
        """Return the source, frame and view that a row shows; see `Store.origin_of`."""
        store, number = self.place_of(row)
        return store.origin_of(number)

    @lazy
    def spacing(self) -> NDArray[np.float64]:
        """Millimetres per stored pixel of each row of `rows`, float64 [R', 2]; see `Store.spacing`."""
        return np.concatenate([part.spacing for part in self._parts])

    def spacing_of(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return the spacing of rows in the order asked for, float64 [B, 2]; see `Store.spacing_of`."""
        numbers: Ints = np.array(rows, np.int64).reshape(-1)
        found = np.empty((len(numbers), 2))
        part_B = self.part_of(numbers)
        for part in np.unique(part_B).tolist():
            mine = part_B == part
            found[mine] = self._parts[part].spacing_of(numbers[mine] - self._first[part])
        return found

    def read(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        layers: Sequence[str] | None = None,
        teacher: str | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
    ) -> Batch:
        """Read rows, in the order asked for; repeats are allowed. Arguments as of `Store.read`.

        Raises:
            HoleError: a row number holds no data.
            DamageError: a row's bytes are not those that were built. The message names the store, `error.row` is the
                row's number in it.
            UsageError: a layer or teacher that these stores do not have in common, or memory that does not fit.
        """
        numbers: Ints = np.array(rows, np.int64).reshape(-1)  # a copy: the batch's own
        names, teacher = chosen_layers(self, layers, teacher)
        arrays = {name: memory_for(self._layers[name], len(numbers), out) for name in names}
        part_B = self.part_of(numbers)
        parts: list[int] = np.unique(part_B).tolist()

        def read_part(number: int) -> None:
            self._read_part(parts[number], np.flatnonzero(part_B == parts[number]), numbers, arrays)

        if any(self._waits[part] for part in parts):
            self._workers.get().run(len(parts), read_part)  # an object storage makes them wait: all of it at once
        else:
            for number in range(len(parts)):
                read_part(number)
        channels = self._layers[f"latents/{teacher}"].channel_scale if teacher else ()
        coded = {t: (part_B, layers) for t, layers in self._codings.items() if f"latents/{t}" in names}
        codings = {t: coding for t, coding in codings_of(self._layers, names).items() if t not in coded}
        return Batch(numbers, arrays, teacher, channels, self._row_scales(names, part_B), codings, coded)

    def _read_part(self, part: int, places: Ints, numbers: Ints, arrays: Mapping[str, NDArray[Any]]) -> None:
        first = int(self._first[part])
        try:
            self._parts[part].read_into(numbers[places] - first, arrays, places)
        except (DamageError, HoleError) as error:
            if error.row is not None and first:
                error.args = (f"{error} In the stores together it is row {first + error.row}.",)
            raise

    @lazy
    def _calibrations(self) -> dict[str, NDArray[np.float32]]:
        """Teacher -> float32 [K, D] divisors of its int8 latents in each store, where they differ."""
        found = {}
        for name, layer in self._layers.items():
            each = [part.layers[name].channel_scale for part in self._parts]
            if layer.kind == "latents" and layer.coding is None and len(set(each)) > 1:
                found[str(layer.teacher)] = np.array(each, np.float32)
        return found

    @lazy
    def _codings(self) -> dict[str, list[Layer]]:
        """Teacher -> the layer in each store, of latents on axes or packed, where the stores' differ."""
        found = {}
        for name, layer in self._layers.items():
            each = [part.layers[name] for part in self._parts]
            if layer.coding is not None and len({(one.channel_scale, one.coding) for one in each}) > 1:
                found[str(layer.teacher)] = each
        return found

    def _row_scales(self, names: Sequence[str], part_B: Ints) -> dict[str, NDArray[np.float32]]:
        calibrations = self._calibrations
        return {
            teacher: scales_KD[part_B] for teacher, scales_KD in calibrations.items() if f"latents/{teacher}" in names
        }

    def close(self) -> None:
        """Close files and threads; the stores open them again when they are read again."""
        for part in self._parts:
            part.close()
        self._workers.close()


def open_stores(
    paths: Sequence[str | Path],
    layers: Sequence[str] | None = None,
    generations: Sequence[int | None] | None = None,
    threads: int = 2,
    check_rows: bool = True,
) -> Stores:
    """Open sealed stores to be read as one.

    Args:
        paths: folders or URLs, in the order in which their rows are numbered.
        layers: names of the layers that will be read, `scales` with their latents: the stores must agree in these, and
            may differ in others. None: all layers that any of them holds.
        generations: of each store, None for the newest; None: the newest of all.
        threads: threads that read each store from a disk; object storages are asked for all at once.
        check_rows: False skips the checksums of rows; damage goes unnoticed then.

    Raises:
        UsageError: no store, one given twice or beside its copy, or a layer that none holds.
        IdentityError: the stores do not fit each other; the message has every field in which they differ.
        StoreError: one of them can't be opened; see `open_store`.
    """
    if isinstance(paths, str) or not hasattr(paths, "__len__"):
        raise UsageError(f"{paths}: give a list of stores, or call open_store for one.")
    wanted = [None] * len(paths) if generations is None else list(generations)
    if len(wanted) != len(paths):
        raise UsageError(f"generations: {len(wanted)} for {len(paths)} stores; give one for each, None for the newest.")
    parts = [
        open_store(path, generation=generation, threads=threads, check_rows=check_rows)
        for path, generation in zip(paths, wanted, strict=True)
    ]
    return Stores(parts, layers)
