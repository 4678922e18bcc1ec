"""Cut rows of several shards at once in a pool of child processes."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.decoding.segment_rows import SegmentRows
from usjepa.cache.errors import Interrupted
from usjepa.cache.frames.clips import ClipRegions
from usjepa.cache.frames.rows import PixelShard, cut_rows
from usjepa.cache.interrupt import safe_point
from usjepa.cache.processors import cores
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.reader import SourceReader, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment

_MOST_BY_DEFAULT = 8
_SMALL_ROWS = 512
"""A phantom of fewer rows is cut in this process: it parses nothing, and a child takes a third of a second to start."""


def processes_by_default(builders: int = 1) -> int:
    """Return how many children a process that builds decodes in, where so many of them share a machine."""
    return max(1, min(_MOST_BY_DEFAULT, cores() // (2 * builders)))


class Cutters:
    """Cut rows of a store's segments, for at most `lookahead` threads at once.

    Rows of a small phantom are cut in this process.
    """

    def __init__(
        self, storage: Storage, segments: Sequence[Segment], listing: Listing, settings: CacheSettings
    ) -> None:
        self._settings, self._abandoned = settings, threading.Event()
        self._rows = {segment.number: SegmentRows(storage, segment) for segment in segments}
        small = sum(segment.rows for segment in segments) <= _SMALL_ROWS
        here = small and all(set(map(name_of, rows.readers)) == {PHANTOM} for rows in self._rows.values())
        # A reader belongs to one thread.
        self.lookahead = 1 if here else settings.decode_processes or processes_by_default()
        self._here = SourceReader.of(listing, settings) if here else None
        self._regions_here = ClipRegions(self._here, settings.preprocess.deidentify) if self._here is not None else None
        self._children = [] if here else [self._child(listing) for _ in range(self.lookahead)]
        self._free: queue.Queue[DecodingProcess] = queue.Queue()
        for child in self._children:
            self._free.put(child)

    def _child(self, listing: Listing) -> DecodingProcess:
        return DecodingProcess(listing, self._settings, self._check)

    def cut(self, segment: int, numbers: range, skip_errors: bool) -> PixelShard:
        """Return the rows `numbers` of a segment, as `cut_rows` does.

        Raises:
            SourceError: as `cut_rows`.
            Interrupted: a stop was asked for, or the rows are not wanted any more.
        """
        block = self._rows[segment].block(numbers)
        if self._here is not None:
            return cut_rows(
                block, self._here, self._settings, skip_errors, lambda _: self._check(), regions_of=self._regions_here
            )
        child = self._free.get()
        try:
            return child.cut(block, skip_errors)
        finally:
            self._free.put(child)

    def _check(self) -> None:
        safe_point()
        if self._abandoned.is_set():
            raise Interrupted("rows that are being cut are not wanted any more.")

    def abandon(self) -> None:
        """End what is being cut, in any thread, by raising Interrupted there; nothing can be cut from now on."""
        self._abandoned.set()

    def close(self) -> None:
        """End the children and close the tables."""
        for child in self._children:
            child.close()
        for rows in self._rows.values():
            rows.close()
