"""Hold many records of text packed, in the order in which they were added.

A record of a few texts is an object of 300 bytes and more; neighbours are alike, and packed together they take a tenth
of that, in a temporary file when they are many. Read in order, each is unpacked once.
"""

from __future__ import annotations

import heapq
import operator
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, overload

from usjepa.cache.places.spill import Spill

T = TypeVar("T")

_BLOCK = 1 << 10
"""Neighbours that are packed together."""
_RUN = 1 << 16
"""Records that are sorted at once."""
_KEPT = 2
"""Blocks that stay unpacked after one of their records was asked for by its number."""


class Packed(Sequence[T]):
    """Records of one kind. One thread adds to them, then any may read."""

    def __init__(self, kind: Callable[..., T], names: Sequence[str] = (), records: Iterable[T] = ()) -> None:
        """Hold records.

        Args:
            kind: makes a record of its fields.
            names: of its fields; none: a record is a text itself.
            records: the first ones.
        """
        self._kind, self._names = kind, tuple(names)
        self._bytes = Spill()
        self._blocks: list[tuple[int, int, int]] = []
        """Of each block its size unpacked, and where its bytes begin and how many they are."""
        self._loose: list[T] = []
        """The last records, too few for a block."""
        self._kept: tuple[tuple[int, tuple[T, ...]], ...] = ()
        """Number and records of blocks; replaced as a whole, as threads may share it."""
        for record in records:
            self.append(record)

    def of(self, records: Iterable[T]) -> Packed[T]:
        """Return other records of the same kind."""
        return Packed(self._kind, self._names, records)

    def append(self, record: T) -> None:
        """Add a record."""
        self._loose.append(record)
        if len(self._loose) == _BLOCK:
            size, packed = self._pack(self._loose)
            self._blocks.append((size, len(self._bytes), len(packed)))
            self._bytes.add(packed)
            self._loose = []

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._loose)

    def __iter__(self) -> Iterator[T]:
        for block in self._blocks:
            yield from self._unpack(*block)
        yield from self._loose

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[T, ...]: ...
    def __getitem__(self, number: int | slice) -> T | tuple[T, ...]:
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(len(self))))
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self):,} records, and none of number {number}")
        block, place = divmod(number, _BLOCK)
        if block == len(self._blocks):
            return self._loose[place]
        kept = self._kept
        found = next((records for number, records in kept if number == block), None)
        if found is None:
            found = self._unpack(*self._blocks[block])
            self._kept = ((block, found), *kept[: _KEPT - 1])
        return found[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Packed: {len(self):,} records>"

    def fields(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield some fields of each record, which is not made."""
        places, width = [self._names.index(name) for name in names], len(self._names)
        for block in self._blocks:
            values = self._values(*block)
            yield from zip(*(values[place::width] for place in places), strict=True)
        yield from map(_getter(names), self._loose)

    def in_order(self, key: Callable[[T], str]) -> Packed[T]:
        """Return the records ordered by a key, equal ones in their order; never all of them are unpacked at once."""
        if all(one <= other for one, other in pairwise(map(key, self))):
            return self
        starts = range(0, len(self), _RUN)
        runs = [self.of(sorted(self[start : start + _RUN], key=key)) for start in starts]
        return self.of(heapq.merge(*runs, key=key))

    def _pack(self, records: Sequence[T]) -> tuple[int, bytes]:
        import pyarrow as pa

        values: list[Any] = list(records)
        if self._names:
            values = [value for fields in map(_getter(self._names), records) for value in fields]
        data = pickle.dumps(values, pickle.HIGHEST_PROTOCOL)
        return len(data), pa.compress(data, codec="zstd", asbytes=True)

    def _values(self, size: int, first: int, count: int) -> list[Any]:
        import pyarrow as pa

        packed = self._bytes.read(first, count)
        values: list[Any] = pickle.loads(pa.decompress(packed, size, codec="zstd", asbytes=True))  # packed above
        return values

    def _unpack(self, size: int, first: int, count: int) -> tuple[T, ...]:
        values = self._values(size, first, count)
        if not self._names:
            return tuple(values)
        width = len(self._names)
        return tuple(map(self._kind, *(values[field::width] for field in range(width))))


def fields_of(records: Sequence[Any], *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield some fields of each record, packed or not."""
    return records.fields(*names) if isinstance(records, Packed) else map(_getter(names), records)


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gives some fields of a record, `a.b` being one of a field; a tuple even of one."""
    get = operator.attrgetter(*names)
    return get if len(names) > 1 else lambda record: (get(record),)
