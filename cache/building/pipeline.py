"""Make many shards at once: decode ahead of the teacher, hash and write behind it.

Decoding runs in processes of its own, writing in threads. Each stage waits for the next to have room: no more shards
than that are in memory.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from usjepa.cache.building.shard_maker import WRITERS
from usjepa.cache.interrupt import safe_point
from usjepa.cache.reading.process import short_turns
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.building.shard_maker import Latents, ShardMaker
    from usjepa.cache.frames.rows import PixelShard


_POLL_S = 0.5
"""Seconds between two checks for a stop request, while a shard is decoded."""


class Observer:
    """Follows the shards of a build; one that has seen enough ends it early."""

    def written(self, rows: int) -> None:
        """Take note of a shard that is committed; called in the thread that wrote it."""

    def has_enough(self) -> bool:
        """Return whether no further shard is to be begun."""
        return False


def make_shards(maker: ShardMaker, todo: Sequence[int], observer: Observer | None = None) -> None:
    """Make and publish shards in order; at most as many as decode at once, one, and `WRITERS` are in memory.

    Raises:
        UsjepaError: what any stage raised; shards committed before stay.
    """
    total = sum(len(maker.writer.state.rows_of_shard(shard)) for shard in todo)
    start = time.perf_counter()
    if maker.cutters is not None:
        maker.stages.lanes["decode"] = maker.cutters.lookahead
    maker.stages.lanes["write"] = WRITERS
    with ProgressBar(total, "build", unit="rows") as progress:
        _overlap(maker, todo, observer or Observer(), progress, start)


def _overlap(maker: ShardMaker, todo: Sequence[int], observer: Observer, progress: ProgressBar, start: float) -> None:
    lookahead = maker.cutters.lookahead if maker.cutters is not None else 1
    writing: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(lookahead, "decode") as ahead,
        ThreadPoolExecutor(WRITERS, "write") as behind,
        short_turns(),
    ):
        upcoming = deque(ahead.submit(maker.pixels_of, shard) for shard in todo[:lookahead])
        try:
            for i, shard in enumerate(todo):
                made = _next(upcoming, observer)
                if made is None:
                    break
                if i + lookahead < len(todo):
                    upcoming.append(ahead.submit(maker.pixels_of, todo[i + lookahead]))
                latents = maker.latents_of(shard, made)
                if len(writing) == WRITERS:
                    writing.popleft().result()
                writing.append(behind.submit(_write, maker, shard, made, latents, observer))
                progress.update(len(made.pixels), **_pace(maker, time.perf_counter() - start))
            for written in writing:
                written.result()
        finally:
            _abandon(maker, upcoming)


def _next(upcoming: deque[Future[PixelShard]], observer: Observer) -> PixelShard | None:
    """Return the pixels of the next shard; None where the observer has enough before they are there."""
    while not observer.has_enough():
        safe_point()
        done, _ = wait([upcoming[0]], timeout=_POLL_S)
        if done:
            return upcoming.popleft().result()
    return None


def _write(maker: ShardMaker, shard: int, made: PixelShard, latents: Latents | None, observer: Observer) -> None:
    maker.write(shard, made, latents)
    observer.written(len(made.pixels))


def _abandon(maker: ShardMaker, upcoming: deque[Future[PixelShard]]) -> None:
    """End the decoding of shards that nobody will use: a long one would be waited for."""
    if upcoming and maker.cutters is not None:
        maker.cutters.abandon()
    for future in upcoming:
        future.cancel()


def _pace(maker: ShardMaker, wall: float) -> dict[str, str]:
    """Return what is shown beside rows per second and the time left."""
    shown = {"written": f"{maker.stages.nbytes / wall / 1e6:.1f} MB/s"}
    if maker.job is not None:
        shown["teacher busy"] = f"{100 * maker.stages.shares(wall).get('teacher', 0.0):.0f} %"
    return shown
