"""Count what a storage is asked for, as a bucket would be: each request, and how often somebody waits for an answer."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from usjepa.cache.storage.protocol import READ_LIMIT, Buffer, Guard, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.storage.protocol import Listed, Piece, Storage, Take

_NEAR = 1 << 20
"""Ranges nearer than this (bytes) are one request, as in `ObjectStorage`."""


class CountingStorage:
    """Passes everything on to another storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage, self.url = storage, storage.url
        self.requests: Counter[str] = Counter()
        """Kind of request -> how many."""
        self.waits = 0
        """Calls: requests of one are under way together."""
        self.names_read: Counter[str] = Counter()

    def reset(self) -> None:
        """Count anew."""
        self.requests, self.waits, self.names_read = Counter(), 0, Counter()

    def _count(self, kind: str, number: int = 1, waits: int = 1) -> None:
        self.requests[kind] += number
        self.waits += waits

    def read(self, name: str, most: int = READ_LIMIT) -> bytes:
        self._count("read")
        self.names_read[name] += 1
        return self.storage.read(name, most)

    def open_file(self, name: str, most: int = READ_LIMIT) -> BinaryIO:
        self._count("read")
        self.names_read[name] += 1
        return self.storage.open_file(name, most)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return self.read_ranges(name, [(offset, length)])[0]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._count("read", _stretches(ranges))
        self.names_read[name] += 1
        return self.storage.read_ranges(name, ranges)

    def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
        self._count("read", sum(_stretches(piece.ranges) for piece in pieces), waits=bool(pieces))
        self.names_read.update(piece.name for piece in pieces)
        self.storage.read_many(pieces, take)

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        self._count("read", len(ranges), len(ranges))
        self.storage.read_each(name, ranges, take)

    def size(self, name: str) -> int | None:
        self._count("size")
        return self.storage.size(name)

    def names(self, folder: str) -> list[str]:
        self._count("list")
        return self.storage.names(folder)

    def sizes(self, folder: str) -> dict[str, int]:
        self._count("list")
        return self.storage.sizes(folder)

    def listings(self, folders: Sequence[str]) -> list[dict[str, Listed]]:
        self._count("list", len(folders))
        return self.storage.listings(folders)

    def folders(self, folder: str) -> list[str]:
        self._count("list")
        return self.storage.folders(folder)

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        self._count("write")
        self.storage.publish(name, data, guard)

    def create(self, name: str, data: Buffer) -> bool:
        self._count("write")
        return self.storage.create(name, data)

    def delete(self, name: str) -> None:
        self._count("delete")
        self.storage.delete(name)

    def sweep(self) -> int:
        return self.storage.sweep()


def _stretches(ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many requests ranges of one file are, near ones fetched together; 1 for a whole file."""
    ordered = sorted(ranges)
    return 1 + sum(b[0] - (a[0] + a[1]) >= _NEAR for a, b in itertools.pairwise(ordered))
