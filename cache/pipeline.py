"""Makes many shards in one process: decoding runs one shard ahead and writing one shard behind the teacher."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from usjepa.cache.progress import Progress
from usjepa.cache.threads import short_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.shard_maker import ShardMaker


def make_shards(maker: ShardMaker, todo: Sequence[int], say: Callable[[str], None]) -> None:
    """Make and publish shards in order; at most three of them are in memory.

    Raises:
        UsjepaError: what any stage raised; shards committed before stay.
    """
    total = sum(len(maker.writer.state.rows_of_shard(shard)) for shard in todo)
    start = time.perf_counter()
    with Progress(total, "build", unit="rows") as progress:
        _overlap(maker, todo, progress)
    say(maker.stages.report(time.perf_counter() - start))


def _overlap(maker: ShardMaker, todo: Sequence[int], progress: Progress) -> None:
    behind_done: Future[None] | None = None
    with short_turns(), ThreadPoolExecutor(1, "decode") as ahead, ThreadPoolExecutor(1, "write") as behind:
        upcoming = ahead.submit(maker.pixels_of, todo[0])
        for i, shard in enumerate(todo):
            made = upcoming.result()
            if i + 1 < len(todo):
                upcoming = ahead.submit(maker.pixels_of, todo[i + 1])
            ready = maker.latents_of(shard, made)
            if behind_done is not None:
                behind_done.result()
            behind_done = behind.submit(maker.write, shard, made, ready)
            progress.update(len(made.pixels))
        if behind_done is not None:
            behind_done.result()
