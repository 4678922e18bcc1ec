"""Send shards through decoding, teacher and writing, several of them at once.

Every build goes this way: a whole one, a part, a task of a cluster, the trial of a plan. Decoding runs in processes of
its own, the teacher in one lane a device, writing in threads. A shard goes on as soon as the next stage has room for
it, and no more shards than all stages hold are in memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from usjepa.cache.building.lanes import CallingThread
from usjepa.cache.building.shard_maker import WRITERS
from usjepa.cache.errors import TeacherError
from usjepa.cache.interrupt import pool, safe_point
from usjepa.cache.reading.process import short_turns
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.cache.terminal.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.building.latent_job import LatentJob
    from usjepa.cache.building.shard_maker import Latents, ShardMaker
    from usjepa.cache.frames.rows import PixelShard


_POLL_S = 0.5
"""Seconds between two checks for a stop request, while nothing else happens."""
_ASKED = 2
"""Shards that a device is asked for at a time: one that it computes, one that waits for it."""


class Observer:
    """Follows the shards of a build; one that has seen enough ends it early."""

    def written(self, rows: int) -> None:
        """Take note of a shard that is committed; called in any thread."""

    def has_enough(self) -> bool:
        """Return whether no further shard is to be begun."""
        return False


@dataclass(frozen=True)
class _Device:
    """Computes shards one after the other."""

    maker: ShardMaker
    lane: Executor
    """Of one thread."""
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(WRITERS + 1))
    """For latents: those that are computed, and those that are written."""

    def latents_of(self, shard: int, made: PixelShard) -> Latents | None:
        """Return a shard's latents; whoever asks frees their room."""
        self.room.acquire()
        try:
            return self.maker.latents_of(shard, made)
        except BaseException:
            self.room.release()
            raise


class Pipeline:
    """The stages of one process. Any thread may send shards through."""

    def __init__(self, maker: ShardMaker, lanes: Sequence[Executor], elsewhere: Sequence[LatentJob] = ()) -> None:
        """Take a maker of shards, and a lane, an executor of one thread, for each device.

        Args:
            maker: cuts and writes the shards; its own job runs in the first lane.
            lanes: one more than `elsewhere`.
            elsewhere: the same work on further devices.
        """
        self.maker = maker
        makers = [maker, *(replace(maker, job=job) for job in elsewhere)]
        self._devices = [_Device(one, lane) for one, lane in zip(makers, lanes, strict=True)]
        writers = WRITERS * len(makers)
        self.most = maker.lookahead + len(makers) + writers
        """Shards that are in memory at most."""
        cutting = dict.fromkeys(("decode", "read"), maker.lookahead)
        maker.stages.lanes |= cutting | {"teacher": len(makers), "write": writers}
        self._room = threading.Semaphore(self.most)
        self._decoding = pool(maker.lookahead, "decode")
        self._in_order = threading.Lock()
        self._asked: SimpleQueue[_Device] = SimpleQueue()
        for device in self._devices * _ASKED:
            self._asked.put(device)
        self._shards = pool(self.most, "shard")
        self._writing = pool(writers, "write")

    @property
    def nbytes(self) -> int:
        """Bytes of memory that shards take at most, beside the teacher and what decodes."""
        rows, layers = self.maker.writer.state.rows_per_shard, self.maker.layers
        cut, latents = sum(layer.row_nbytes for layer in layers[:2]), sum(layer.row_nbytes for layer in layers[2:])
        packed = WRITERS * max(layer.row_nbytes for layer in layers)
        return rows * (self.most * cut + len(self._devices) * ((WRITERS + 1) * latents + packed))

    def begin(self, shard: int) -> Future[int]:
        """Begin a shard, waiting until there is room for it; the result is its number of rows once it is committed."""
        self._room.acquire()
        with self._in_order:
            turn = None if self.maker.cutters is None else self.maker.cutters.draw_turn()
            cut = self._decoding.submit(self._pixels_of, shard, turn)
        future = self._shards.submit(self._make, shard, cut)
        future.add_done_callback(lambda _: self._room.release())
        return future

    def _pixels_of(self, shard: int, turn: int | None) -> PixelShard:
        try:
            safe_point()
            return self.maker.pixels_of(shard, turn)
        finally:
            if turn is not None and self.maker.cutters is not None:
                self.maker.cutters.give_up(turn)

    def _make(self, shard: int, cut: Future[PixelShard]) -> int:
        """Take a shard from stage to stage."""
        made = cut.result()
        device = self._asked.get()
        try:
            with self._naming(device):
                latents = device.lane.submit(device.latents_of, shard, made).result()
        finally:
            self._asked.put(device)
        try:
            with self._naming(device):
                self._writing.submit(device.maker.write, shard, made, latents).result()
        finally:
            device.room.release()
        return len(made.pixels)

    @contextlib.contextmanager
    def _naming(self, device: _Device) -> Iterator[None]:
        """Say, of several devices, which of them failed."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            told = refusal(error)
            if told is None or len(self._devices) == 1 or device.maker.job is None:
                raise
            raise TeacherError(f"device {device.maker.job.run.device}: {told}") from error

    def close(self) -> None:
        """End what is under way at its next safe point, and wait for that."""
        if self.maker.cutters is not None:
            self.maker.cutters.abandon()
        for device in self._devices:
            device.lane.shutdown(wait=False, cancel_futures=True)
        self._decoding.shutdown(cancel_futures=True)
        self._shards.shutdown(cancel_futures=True)
        self._writing.shutdown()
        for device in self._devices:
            device.lane.shutdown()


def make_shards(
    maker: ShardMaker,
    todo: Sequence[int],
    observer: Observer | None = None,
    elsewhere: Sequence[LatentJob] = (),
) -> None:
    """Make and publish shards; at most `Pipeline.most` of them are in memory.

    Args:
        maker: of the shards.
        todo: which ones; they are begun in this order.
        observer: told of each.
        elsewhere: the same work on further devices; one alone computes in this thread.

    Raises:
        UsjepaError: what the first of them that failed raised; those before it are committed.
    """
    here = CallingThread()
    count = 1 + len(elsewhere)
    lanes = [here] if count == 1 else [ThreadPoolExecutor(1, f"teacher-{i}") for i in range(count)]
    total = sum(len(maker.writer.state.rows_of_shard(shard)) for shard in todo)
    with (
        ProgressBar(total, "build", unit="rows") as progress,
        short_turns(),
        contextlib.closing(Pipeline(maker, lanes, elsewhere)) as pipeline,
    ):
        _Run(pipeline, here, observer or Observer(), progress).make(todo)


class _Run:
    """Sends shards through a pipeline, in this thread, until all are made or one failed."""

    def __init__(self, pipeline: Pipeline, here: CallingThread, observer: Observer, progress: ProgressBar) -> None:
        self._pipeline, self._here, self._observer, self._progress = pipeline, here, observer, progress
        self._start = time.perf_counter()
        self._under_way: dict[Future[int], int] = {}
        """Place of each in the order."""
        self._failed: dict[int, BaseException] = {}

    def make(self, todo: Sequence[int]) -> None:
        """Make shards; returns early when the observer has enough."""
        upcoming = deque(enumerate(todo))
        while True:
            while upcoming and self._may_begin():
                self._begin(*upcoming.popleft())
            if self._failed and min(self._failed) < min(self._under_way.values(), default=len(todo)):
                raise self._failed[min(self._failed)]
            if not self._under_way or self._observer.has_enough():
                return
            safe_point()
            self._here.work(_POLL_S)
            self._take_note()

    def _may_begin(self) -> bool:
        full = len(self._under_way) >= self._pipeline.most
        return not (full or self._failed or self._observer.has_enough())

    def _begin(self, place: int, shard: int) -> None:
        future = self._pipeline.begin(shard)
        self._under_way[future] = place
        future.add_done_callback(partial(_ended, self._observer, self._here))

    def _take_note(self) -> None:
        for future in [future for future in self._under_way if future.done()]:
            place = self._under_way.pop(future)
            error = future.exception()
            if error is not None:
                self._failed[place] = error
            else:
                pace = self._pipeline.maker.stages.pace(time.perf_counter() - self._start)
                self._progress.update(future.result(), **pace)


def _ended(observer: Observer, here: CallingThread, future: Future[int]) -> None:
    if not future.cancelled() and future.exception() is None:
        observer.written(future.result())
    here.wake()
