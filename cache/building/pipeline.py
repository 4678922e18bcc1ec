"""Makes many shards: decoding runs shards ahead of the teacher, in processes of its own, and hashing and writing
behind it. Each waits for the next to have room: no more shards than that are in memory.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from usjepa.cache.building.shard_maker import WRITERS
from usjepa.cache.progress import Progress
from usjepa.cache.reading.turns import short_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.building.shard_maker import ShardMaker


def make_shards(maker: ShardMaker, todo: Sequence[int]) -> None:
    """Make and publish shards in order; at most as many as decode at once, one, and `WRITERS` are in memory.

    Raises:
        UsjepaError: what any stage raised; shards committed before stay.
    """
    total = sum(len(maker.writer.state.rows_of_shard(shard)) for shard in todo)
    start = time.perf_counter()
    if maker.cutters is not None:
        maker.stages.lanes["decode"] = maker.cutters.lookahead
    maker.stages.lanes["write"] = WRITERS
    with Progress(total, "build", unit="rows") as progress:
        _overlap(maker, todo, progress, start)


def _overlap(maker: ShardMaker, todo: Sequence[int], progress: Progress, start: float) -> None:
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
                maker.check()
                made = upcoming.popleft().result()
                if i + lookahead < len(todo):
                    upcoming.append(ahead.submit(maker.pixels_of, todo[i + lookahead]))
                latents = maker.latents_of(shard, made)
                if len(writing) == WRITERS:
                    writing.popleft().result()
                writing.append(behind.submit(maker.write, shard, made, latents))
                progress.update(len(made.pixels), **_pace(maker, time.perf_counter() - start))
            for written in writing:
                written.result()
        except BaseException:
            for future in upcoming:
                future.cancel()
            raise


def _pace(maker: ShardMaker, wall: float) -> dict[str, str]:
    """Return what is shown beside rows/s and the time left."""
    shown = {"written": f"{maker.stages.nbytes / wall / 1e6:.1f} MB/s"}
    if maker.model is not None:
        shown["teacher busy"] = f"{100 * maker.stages.shares(wall).get('teacher', 0.0):.0f} %"
    return shown
