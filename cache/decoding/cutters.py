"""Cut rows of several shards at once in a pool of child processes.

Each shard is cut by one child, but for the rows of a clip that goes on in another shard: one child decodes those, and
hands frames on (`handing_on.py`).
"""

from __future__ import annotations

import queue
import threading
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.decoding.handing_on import HandingOn
from usjepa.cache.decoding.segment_rows import SegmentRows
from usjepa.cache.decoding.turns import Turns
from usjepa.cache.errors import Interrupted
from usjepa.cache.frames.clips import ClipRegions
from usjepa.cache.frames.rows import PixelShard, cut_rows
from usjepa.cache.interrupt import safe_point
from usjepa.cache.processors import cores
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.sources.formats.packed.archive import ArchiveReader
from usjepa.cache.sources.registry import reader_named, reader_of_member

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usjepa.cache.decoding.child import Decoded
    from usjepa.cache.frames.clips import SourceRef
    from usjepa.cache.frames.rows import RowBlock
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing, Reader
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
        self._real = listing.real
        several = len(self._children) > 1
        self._turns = Turns(self._check)
        self._handing_on = (
            HandingOn(self._child(listing), self._by_child, len(self._children), self._turns, self._check)
            if several
            else None
        )

    def _child(self, listing: Listing) -> DecodingProcess:
        return DecodingProcess(listing, self._settings, self._check)

    def draw_turn(self) -> int:
        """Return the next turn, for rows that a thread will cut; it has to be given up in the end."""
        return self._turns.draw()

    def give_up(self, turn: int) -> None:
        """Say that a turn's rows are cut, or not wanted: those that were drawn after it wait for that."""
        self._turns.give_up(turn)

    def cut(self, segment: int, numbers: range, skip_errors: bool, turn: int | None = None) -> PixelShard:
        """Return the rows `numbers` of a segment, as `cut_rows` does.

        Clips that go on in other rows are decoded in the order of turns, which are drawn here if not before.

        Raises:
            SourceError: as `cut_rows`.
            Interrupted: a stop was asked for, or the rows are not wanted any more.
        """
        block = self._rows[segment].block(numbers)
        if self._here is not None and self._regions_here is not None:
            return cut_rows(block, self._here, self._settings, skip_errors, lambda _: self._check(), self._regions_here)
        beyond = self._clips_beyond(segment, numbers, block)
        if self._handing_on is not None and any(beyond):
            return self._handing_on.cut(block, beyond, skip_errors, self.draw_turn() if turn is None else turn)
        if turn is not None:
            self.give_up(turn)  # others needn't wait until these are cut
        return self._by_child(block, skip_errors)

    def _by_child(
        self,
        block: RowBlock,
        skip_errors: bool,
        given: Decoded | None = None,
        bad: Mapping[str, str] = MappingProxyType({}),
    ) -> PixelShard:
        child = self._free.get()
        try:
            return child.cut(block, skip_errors, given, bad)
        finally:
            self._free.put(child)

    def _clips_beyond(self, segment: int, numbers: range, block: RowBlock) -> tuple[bool, bool]:
        """Return whether the first and the last source of rows are clips that go beyond them, and cost their beginning.

        Several children that cut such rows would each decode the clip from its first frame.
        """
        before, behind = self._rows[segment].go_beyond(numbers)
        if not (before or behind):
            return False, False
        source = [row.source for row in block.rows]
        frames = [(row.source, row.frame) for row in block.rows]
        ordered = all(a[0] != b[0] or a[1] <= b[1] for a, b in pairwise(frames))
        return (
            before and ordered and self._goes_in_order(block.sources[source[0]]),
            behind and ordered and self._goes_in_order(block.sources[source[-1]]),
        )

    def _goes_in_order(self, source: SourceRef) -> bool:
        name = name_of(source.reader)
        if source.frames == 1 or name == PHANTOM:
            return False
        kind: type[Reader] | None = reader_named(name)
        if kind is ArchiveReader:
            kind = reader_of_member(self._real.get(source.path, source.path))
        return not getattr(kind, "frames_apart", False)

    def _check(self) -> None:
        safe_point()
        if self._abandoned.is_set():
            raise Interrupted("rows that are being cut are not wanted any more.")

    def abandon(self) -> None:
        """End what is being cut, in any thread, by raising Interrupted there; nothing can be cut from now on."""
        self._abandoned.set()

    def close(self) -> None:
        """End the children and close the tables."""
        self.abandon()
        if self._handing_on is not None:
            self._handing_on.close()
        for child in self._children:
            child.close()
        for rows in self._rows.values():
            rows.close()
