"""Draw rows evenly over dataset, label, split and patient.

Sources are put in an order in which every stratum (a dataset's label in a split) takes its turn, and within a stratum
every patient. Of each source in that order one row is taken, then of each a second one, and so on; the rows of a source
lie evenly spaced. Columns are read part by part; what is held is a few numbers a source.

Shape suffixes: S sources, R rows, n those chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from usjepa.cache.errors import UsageError
from usjepa.cache.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.store.origins.table import Table

    Ints = NDArray[np.int64]

_COLUMNS = ("path", "dataset", "group", "label", "split", "content_hash")


class Named(NamedTuple):
    """What a source is called."""

    path: str
    dataset: str
    group: str
    label: str
    split: str


@dataclass(frozen=True)
class Sources:
    """The sources of a store, as numbers."""

    stratum_S: NDArray[np.int32]
    """Equal for sources of one dataset, label and split."""
    patient_S: NDArray[np.uint64]
    """Equal for sources of one group of one dataset; a source without a group is a patient of its own."""
    content_S: NDArray[np.uint64]
    """Equal for files of the same content."""
    rows_S: NDArray[np.int64]
    """Rows that exist and are wanted."""
    strata: int
    """Of sources that have rows."""

    @classmethod
    def of(cls, store: Store, dataset: str | None = None) -> Sources:
        """Read a store's tables; raises UsageError where no row is of that dataset."""
        table, strata, first = store.table, dict[tuple[str, str, str], int](), 0
        parts: list[tuple[NDArray[Any], ...]] = []
        for columns in table.source_columns(*_COLUMNS[1:]):
            parts.append(_numbers(columns, strata, first, dataset))
            first += len(columns[0])
        codes, patient, content, wanted = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows = table.stretches.rows_per_source(len(codes)).astype(np.int64) * wanted
        if not rows.any():
            names = ", ".join(sorted({key[0] for key in strata}))
            raise UsageError(f"{store.location}: it has no rows of dataset {dataset!r}; its datasets are: {names}.")
        return cls(codes, patient, content, rows, len(np.unique(codes[rows > 0])))

    def in_turn(self) -> Ints:
        """Return the sources that have rows, so that strata and within them patients take turns."""
        alive = np.flatnonzero(self.rows_S)
        stratum, patient = self.stratum_S[alive], self.patient_S[alive]
        chance = generator("rows to look at").permutation(len(alive))
        turn = _turns(stratum, patient, order=chance)
        place = _turns(stratum, order=turn.astype(np.int64) * len(alive) + chance)
        return alive[np.lexsort((stratum, place))]

    def same_content(self) -> Ints:
        """Return the sources whose content another source has too, equal ones together."""
        alive = np.flatnonzero(self.rows_S)
        _, code, count = np.unique(self.content_S[alive], return_inverse=True, return_counts=True)
        several = count[code] > 1
        return alive[several][np.argsort(code[several], kind="stable")]


def _numbers(
    columns: list[list[str]], strata: dict[tuple[str, str, str], int], first: int, wanted: str | None
) -> tuple[NDArray[Any], ...]:
    """Return of sources, beginning with number `first`: stratum, patient, content, and whether they are wanted."""
    datasets, groups, labels, splits, digests = columns
    codes = [strata.setdefault(key, len(strata)) for key in zip(datasets, labels, splits, strict=True)]
    patients = [
        xxhash.xxh3_64_intdigest(repr((dataset, group) if group else number).encode())
        for number, (dataset, group) in enumerate(zip(datasets, groups, strict=True), first)
    ]
    contents = [xxhash.xxh3_64_intdigest(digest.encode()) for digest in digests]
    alive = [wanted is None or dataset == wanted for dataset in datasets]
    return np.array(codes, np.int32), np.array(patients, np.uint64), np.array(contents, np.uint64), np.array(alive)


def _turns(*keys: NDArray[Any], order: Ints) -> Ints:
    """Return of each element how many of its keys come before it in an order."""
    sorted_ = np.lexsort((order, *keys))
    new = np.zeros(len(order), bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[sorted_][1:] != key[sorted_][:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    turns = np.empty(len(order), np.int64)
    turns[sorted_] = np.arange(len(order)) - first
    return turns


def rows_in_turn(table: Table, sources: Sources, count: int) -> Ints:
    """Return positions [n] of at most `count` rows, those of the first turn first."""
    order = sources.in_turn()
    return _rows_of(table, order, _shared_out(sources.rows_S[order], count))


def first_rows(table: Table, order: Ints) -> Ints:
    """Return the position [n] of one row of each of some sources, in their order."""
    return _rows_of(table, order, np.ones(len(order), np.int64))


def _shared_out(there: Ints, count: int) -> Ints:
    """Return how many each gives, in turns, so that they are `count` in all or everything that is there."""
    given = np.zeros(len(there), np.int64)
    while count > 0 and (able := np.flatnonzero(there > given)).size:
        given[able[:count]] += 1
        count -= len(able[:count])
    return given


def _rows_of(table: Table, order: Ints, given: Ints) -> Ints:
    """Return positions of `given` evenly spaced rows of each source of an order, turn by turn."""
    order, given = order[given > 0], given[given > 0]
    among = np.flatnonzero(np.isin(table.source, order))
    source = table.source[among]
    by_source = np.argsort(source, kind="stable")
    low = np.searchsorted(source[by_source], order, side="left")
    high = np.searchsorted(source[by_source], order, side="right")
    chosen: list[tuple[int, int, int]] = []
    for place, (first, stop, count) in enumerate(zip(low.tolist(), high.tolist(), given.tolist(), strict=True)):
        spaced = np.linspace(first, stop - 1, count).round().astype(np.int64)
        chosen += [(turn, place, int(among[by_source[at]])) for turn, at in enumerate(spaced)]
    return np.array([position for _, _, position in sorted(chosen)], np.int64)


def named(table: Table, numbers: Iterable[int]) -> dict[int, Named]:
    """Return what some sources are called; the columns are read part by part."""
    wanted, found, first = sorted(set(numbers)), dict[int, Named](), 0
    for columns in table.source_columns(*_COLUMNS[:5]):
        low, high = np.searchsorted(wanted, (first, first + len(columns[0])))
        for number in wanted[low:high]:
            found[number] = Named(*(column[number - first] for column in columns))
        first += len(columns[0])
    return found
