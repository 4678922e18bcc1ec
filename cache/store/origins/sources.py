"""Keep the sources of a store packed, and make one when it is asked for."""

from __future__ import annotations

import itertools
import operator
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.store.columns import BATCH, lines_of
from usjepa.cache.store.origins.segment_tables import lists_of, open_sources, sources_in_batches
from usjepa.cache.store.tables import SourceTable

if TYPE_CHECKING:
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment


_KEPT_BATCHES = 2
"""Batches of sources that stay unpacked."""


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


SOURCE_FIELDS = tuple(Source.__dataclass_fields__)


class PackedSources(Sequence[Source]):
    """Sources that are made when they are asked for. Of many, ask for columns, or in ascending order."""

    def __iter__(self) -> Iterator[Source]:
        for columns in self.columns(*SOURCE_FIELDS):
            yield from map(Source, *columns)

    @overload
    def __getitem__(self, number: int) -> Source: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, number: int | slice) -> Source | tuple[Source, ...]:
        if isinstance(number, slice):
            return tuple(itertools.islice(self, *number.indices(len(self))))
        wanted = number + len(self) if number < 0 else number
        if not 0 <= wanted < len(self):
            raise IndexError(f"there are {len(self):,} sources, and none of number {number}")
        return self.at(wanted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def at(self, number: int) -> Source:
        """Return the source of a number that there is."""

    @abstractmethod
    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns, a list a name, batch after batch."""


class Sources(PackedSources):
    """The sources of segments. They stay packed; a batch of neighbours is unpacked when one of them is asked for."""

    def __init__(self, storage: Storage, segments: Sequence[Segment]) -> None:
        self._storage, self._segments = storage, segments
        self._batches: dict[int, tuple[Source, ...]] = {}
        """First number of a batch -> its sources, those asked for last."""
        lines: list[int] = []
        held: list[list[list[Any]]] = []
        for segment in segments:
            with open_sources(storage, segment) as file:
                lines.append(lines_of(SourceTable, file))
                held = [*held, *lists_of(file, SOURCE_FIELDS)] if sum(lines) <= BATCH else []
        if sum(lines) <= BATCH:
            self._keep(0, held)
        self.firsts = np.cumsum([0, *lines])
        """Number of the first source of each segment, and how many there are."""

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def at(self, number: int) -> Source:
        """Return one, from the batch that it lies in."""
        for first, batch in list(self._batches.items()):
            if first <= number < first + len(batch):
                return batch[number - first]
        first = 0
        for columns in self.columns(*SOURCE_FIELDS):
            if number < first + len(columns[0]):
                return self._keep(first, [columns])[number - first]
            first += len(columns[0])
        raise DamageError(f"{self._storage.url}: its tables of sources changed while they were read.")

    def _keep(self, first: int, columns: list[list[list[Any]]]) -> tuple[Source, ...]:
        batch = tuple(source for lists in columns for source in map(Source, *lists))
        while len(self._batches) >= _KEPT_BATCHES:
            self._batches.pop(next(iter(self._batches)), None)
        self._batches[first] = batch
        return batch

    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns, a list a name, batch after batch."""
        if len(self._batches) == 1 and len(self._batches.get(0, ())) == len(self):
            yield [[getattr(source, name) for source in self._batches[0]] for name in names]
            return
        for segment in self._segments:
            yield from sources_in_batches(self._storage, segment, *names)
