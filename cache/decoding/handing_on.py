"""Have one process decode a clip and hand its frames to those that cut.

A frame of a clip costs all those before it. Where the rows of a clip lie in several shards, which several children cut
at once, each of them would decode the clip from its beginning. So one more child decodes, in the order of the rows, and
its frames are handed on in batches, to whoever is free. At most one batch more than there are children is under way.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from dataclasses import replace
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import SourceError
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.interrupt import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from usjepa.cache.decoding.child import Decoded, DecodingProcess
    from usjepa.cache.decoding.turns import Turns
    from usjepa.cache.frames.rows import RowBlock

    Cut = Callable[[RowBlock, bool, Decoded | None, Mapping[str, str]], PixelShard]

_BATCH_NBYTES = 16 << 20
"""Bytes of frames that are handed on at once; one frame where it is larger."""
_POLL_S = 0.2


class _Begun(NamedTuple):
    """Rows of a part that are being cut."""

    cut: Sequence[Future[PixelShard]]
    failed: str = ""
    """Why the rest of the part's clip can't be had; empty where it can."""
    died: bool = False
    """Whether the child that decoded it died of it."""


class HandingOn:
    """One child that decodes clips for those that cut. Threads share it."""

    def __init__(
        self, child: DecodingProcess, cut: Cut, children: int, turns: Turns, check: Callable[[], None]
    ) -> None:
        """Take a child that decodes, and what has one of so many other `children` cut rows."""
        self._child, self._cut, self._turns, self._check = child, cut, turns, check
        self._room = threading.Semaphore(children + 1)
        self._pool = pool(children, "cut")

    def cut(self, block: RowBlock, beyond: tuple[bool, bool], skip_errors: bool, turn: int) -> PixelShard:
        """Return the rows of a block; see `cut_rows`.

        Args:
            block: its first or last source is a clip of which other blocks have rows, in ascending order.
            beyond: whether the first source has rows before the block, and the last one behind it.
            skip_errors: as for `cut_rows`.
            turn: its place among the blocks that are cut at once.
        """
        parts = list(_parts(block, beyond))
        with self._turns.turn(turn):
            begun = [self._clip(part) if is_clip else self._others(part, skip_errors) for part, is_clip in parts]
        return PixelShard.joined(
            [self._ended(part, cut, skip_errors) for (part, _), cut in zip(parts, begun, strict=True)]
        )

    def close(self) -> None:
        """End the child, and the threads once their children have ended."""
        self._child.close()
        self._pool.shutdown(cancel_futures=True)

    def _others(self, block: RowBlock, skip_errors: bool) -> _Begun:
        return _Begun([self._pool.submit(self._cut, block, skip_errors, None, {})])

    def _clip(self, block: RowBlock) -> _Begun:
        """Decode what a block wants of a clip, and have rows cut from each batch of frames."""
        source, frames = block.sources[0], [row.frame for row in block.rows]
        wanted = sorted(set(frames))
        most = max(1, _BATCH_NBYTES // max(1, 3 * source.height * source.width))
        cut: list[Future[PixelShard]] = []
        for start in range(0, len(wanted), most):
            self._make_room()
            try:
                decoded = self._child.decode(source, wanted, start, most)
            except BaseException as error:
                self._room.release()
                if isinstance(error, SourceError):
                    return _Begun(cut, str(error), died=True)
                raise
            if decoded.numbers:
                rows = bisect_left(frames, decoded.numbers[0]), bisect_right(frames, decoded.numbers[-1])
                cut.append(self._pool.submit(self._cut_decoded, block.part(*rows), decoded))
            else:
                self._room.release()
            if decoded.error:
                return _Begun(cut, decoded.error)
        return _Begun(cut)

    def _make_room(self) -> None:
        while not self._room.acquire(timeout=_POLL_S):
            self._check()

    def _cut_decoded(self, block: RowBlock, decoded: Decoded) -> PixelShard:
        try:
            return self._cut(block, False, decoded, {})
        finally:
            self._room.release()

    def _ended(self, block: RowBlock, begun: _Begun, skip_errors: bool) -> PixelShard:
        """Return the rows of a part; a clip that can't be decoded to its last wanted frame is left out as a whole."""
        failed, died, made = begun.failed, begun.died, list[PixelShard]()
        for future in begun.cut:
            try:
                made.append(future.result())
            except SourceError as error:  # its child died
                if not skip_errors:
                    raise
                failed, died = failed or str(error), True
        if not failed:
            return PixelShard.joined(made)
        if not skip_errors:
            raise SourceError(failed)
        left_out = self._cut(block, True, None, {block.sources[0].path: failed})
        told = [] if died else made
        return replace(
            left_out,
            blank=[row for one in told for row in one.blank],
            doubtful=[row for one in told for row in one.doubtful],
        )


def _parts(block: RowBlock, beyond: tuple[bool, bool]) -> Iterator[tuple[RowBlock, bool]]:
    """Yield parts of a block, and whether each is a clip that goes beyond it."""
    of = [row.source for row in block.rows]
    head = sum(1 for _ in takewhile(lambda one: one == of[0], of)) if beyond[0] else 0
    tail = sum(1 for _ in takewhile(lambda one: one == of[-1], reversed(of))) if beyond[1] else 0
    last = max(head, len(of) - tail)  # the same, where all rows are of one clip
    for start, stop in pairwise((0, head, last, len(of))):
        if start < stop:
            yield block.part(start, stop), start < head or start >= last
