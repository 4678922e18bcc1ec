"""Cut rows of several shards at once in a pool of child processes."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.frames.rows import PixelShard, RowBlock, cut_rows
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


class Cutters:
    """Cut rows of a store's segments, for at most `lookahead` threads at once.

    Rows of a small phantom are cut in this process.
    """

    def __init__(
        self, storage: Storage, segments: Sequence[Segment], listing: Listing, settings: CacheSettings
    ) -> None:
        self._settings = settings
        self._first_rows = {segment.number: segment.first_row for segment in segments}
        self._tables = {segment.number: read_tables(storage, segment) for segment in segments}
        small = sum(segment.rows for segment in segments) <= _SMALL_ROWS
        here = small and all(set(sources.reader) == {PHANTOM} for sources, _ in self._tables.values())
        # A reader belongs to one thread.
        self.lookahead = 1 if here else settings.decode_processes or max(1, min(8, (os.cpu_count() or 1) // 2))
        self._here = SourceReader.of(listing, settings) if here else None
        self._children = [] if here else [DecodingProcess(listing, settings) for _ in range(self.lookahead)]
        self._free: queue.Queue[DecodingProcess] = queue.Queue()
        for child in self._children:
            self._free.put(child)

    def cut(self, segment: int, numbers: range, skip_errors: bool, check: Callable[[], None]) -> PixelShard:
        """Return the rows `numbers` of a segment, as `cut_rows` does."""
        block = RowBlock.of(*self._tables[segment], self._first_rows[segment], numbers)
        if self._here is not None:
            return cut_rows(block, self._here, self._settings, skip_errors, check)
        child = self._free.get()
        try:
            return child.cut(block, skip_errors, check)
        finally:
            self._free.put(child)

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.close()
