"""Choose where each segment's rows are cut: in a pool of child processes, or here for a small phantom."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING, Protocol

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.frames.rows import PixelMaker, PixelShard
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.reader import SourceReader
from usjepa.cache.store.origins import read_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment

_SMALL_ROWS = 512
"""A phantom of fewer rows is cut in this process: it parses nothing, and a child takes a third of a second to start."""


class Cutter(Protocol):
    """Cut rows of one segment from its sources."""

    def make(self, numbers: range, skip_errors: bool, check: Callable[[], None]) -> PixelShard:
        """Return the rows `numbers`, as `PixelMaker.make` does."""
        ...


class Cutters:
    """The cutter of each segment of a store, and how many shards may be cut at once."""

    def __init__(
        self, storage: Storage, segments: Sequence[Segment], listing: Listing, settings: CacheSettings
    ) -> None:
        self.lookahead = settings.decode_processes or max(1, min(8, (os.cpu_count() or 1) // 2))
        real = dict(listing.real)
        self._children = [DecodingProcess(listing.root, settings, real) for _ in range(self.lookahead)]
        pool: queue.Queue[DecodingProcess] = queue.Queue()
        for child in self._children:
            pool.put(child)
        self._by_segment: dict[int, Cutter] = {}
        for segment in segments:
            sources, rows = read_tables(storage, segment)
            small = segment.rows <= _SMALL_ROWS and set(sources.reader) == {PHANTOM}
            if small:
                reader = SourceReader.of(listing, settings)
                self._by_segment[segment.number] = PixelMaker(sources, rows, segment.first_row, reader, settings)
            else:
                self._by_segment[segment.number] = _PooledCutter(_absolute(storage.url), segment, pool)
        if all(isinstance(cutter, PixelMaker) for cutter in self._by_segment.values()):
            self.lookahead = 1  # a reader belongs to one thread

    def __getitem__(self, segment: int) -> Cutter:
        return self._by_segment[segment]

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.close()


class _PooledCutter:
    """Cut rows of one segment in whichever child of a pool is free. Safe to share between threads."""

    def __init__(self, store: str, segment: Segment, pool: queue.Queue[DecodingProcess]) -> None:
        self._store, self._segment, self._pool = store, segment, pool

    def make(self, numbers: range, skip_errors: bool, check: Callable[[], None]) -> PixelShard:
        """Return the rows `numbers`, as `PixelMaker.make` does."""
        process = self._pool.get()
        try:
            return process.cut(self._store, self._segment, numbers, skip_errors, check)
        finally:
            self._pool.put(process)


def _absolute(url: str) -> str:
    return url if "://" in url else os.path.abspath(url)
