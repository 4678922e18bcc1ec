"""Have the shards of a build made on a Dask cluster.

The client holds the build's claim and has made segments and layers. What a dead worker had in hand is given to another,
which makes only what is not committed. When scheduler or client die, committed shards stay, and the next build goes on
from them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections import Counter
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from usjepa.cache.building.cluster.worker import forget, make_run
from usjepa.cache.building.stages import Stages
from usjepa.cache.errors import StoreError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, Future

    from usjepa.cache.building.cluster.order import Told, WorkOrder

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_ALONE_S = 60.0
"""How long a cluster on this machine may be without a worker: one that died is followed by another within seconds."""
_GONE = "the Dask scheduler is gone"
_KEPT = "Committed shards are kept: run the same command again."
_LONGEST = 8
"""Shards of a run at most. Neighbours show frames of the same files, which one machine then fetches once."""
_RUNS_EACH = 16
"""Runs for each thread of the cluster at least, where there are as many shards: all end at about the same time."""


def runs_of(todo: Sequence[int], threads: int) -> list[Sequence[int]]:
    """Deal shards out in runs of neighbours.

    A run costs nothing to begin and nothing to end, as the next one flows into the same pipeline. So it is as short as
    all workers need to end at one time, and a worker that dies loses only what it had in hand.
    """
    length = max(1, min(_LONGEST, len(todo) // (_RUNS_EACH * max(threads, 1))))
    return [todo[at : at + length] for at in range(0, len(todo), length)]


def make_shards_on(client: Client, order: WorkOrder, todo: Sequence[int], rows_of: Callable[[int], int]) -> None:
    """Make and publish shards on a cluster.

    Args:
        client: of the cluster, as of `connect`.
        order: what the workers need.
        todo: the shards.
        rows_of: number of rows of a shard, for the progress.

    Raises:
        UsjepaError: what a task raised, or the cluster is gone; committed shards stay.
    """
    from distributed.comm.core import CommClosedError

    try:
        with ProgressBar(sum(map(rows_of, todo)), "build", unit="rows") as progress:
            _Client(client, order, progress, rows_of).make(todo)
    except (CommClosedError, concurrent.futures.CancelledError, asyncio.CancelledError) as error:
        raise StoreError(f"{_GONE} or was restarted. {_KEPT}") from error


class _Client:
    """The client's side of one build."""

    def __init__(self, client: Client, order: WorkOrder, progress: ProgressBar, rows_of: Callable[[int], int]) -> None:
        self._client, self._progress, self._rows_of = client, progress, rows_of
        self._workers = client.scheduler_info(n_workers=-1)["workers"]
        hosts = Counter(worker["host"] for worker in self._workers.values())
        self._order = replace(order, neighbours=max(hosts.values(), default=1))
        self._done: set[int] = set()
        self._told: SimpleQueue[Told] = SimpleQueue()
        self._newest: dict[str, Told] = {}
        """Of each worker."""
        self._start = self._manned = time.perf_counter()

    def make(self, todo: Sequence[int]) -> None:
        """Make shards; returns when all are committed, having reported what limited that."""
        from distributed.comm.core import CommClosedError

        client, order = self._client, self._order
        client.subscribe_topic(order.topic, lambda event: self._told.put(event[1]))
        threads = sum(worker["nthreads"] for worker in self._workers.values())
        futures: dict[Future[None], Sequence[int]] = {}
        try:
            for place, run in enumerate(runs_of(todo, threads)):
                futures[client.submit(make_run, order, run, pure=False, priority=-place)] = run
            for future in self._finished(set(futures)):
                self._result(future, futures[future])
            self._take_note()
            if (stages := self._stages()).seconds:
                logger.info(stages.report(time.perf_counter() - self._start))
        except BaseException:
            with contextlib.suppress(CommClosedError):  # no scheduler is left to cancel them
                client.cancel(list(futures), force=True)
            raise
        finally:
            if client.status == "running":
                with contextlib.suppress(OSError):  # the scheduler has gone just now
                    client.run(forget, order.claim, on_error="ignore")

    def _finished(self, pending: set[Future[None]]) -> Iterator[Future[None]]:
        """Yield futures as they finish well; raise when one failed or the scheduler is gone."""
        from distributed import wait

        while pending:
            safe_point()
            self._take_note()
            try:
                wait(pending, timeout=_POLL_S, return_when="FIRST_COMPLETED")
            except TimeoutError:
                self._look_for_workers()
                continue
            ended = {future for future in pending if future.status != "pending"}
            yield from ended  # those that were cancelled or lost raise when they are asked for their result
            pending -= ended

    def _look_for_workers(self) -> None:
        """Raise where nobody is left to make anything. A cluster elsewhere may get workers whenever its queue says."""
        now = time.perf_counter()
        if self._client.cluster is None or self._client.scheduler_info(n_workers=-1)["workers"]:
            self._manned = now
        elif now - self._manned > _ALONE_S:
            raise StoreError(f"the worker processes of --dask local:N are gone, and none came in their place. {_KEPT}")

    def _take_note(self) -> None:
        """Show what workers told of since the last time."""
        with contextlib.suppress(Empty):
            while True:
                told = self._told.get_nowait()
                if told["how"] not in {other["how"] for other in self._newest.values()}:
                    logger.info(f"a worker {told['how']}")
                self._newest[told["worker"]] = told
                self._count([told["shard"]])

    def _stages(self) -> Stages:
        """Return the stages of all workers together."""
        return Stages.together(told["stages"] for told in self._newest.values())

    def _count(self, shards: Sequence[int]) -> None:
        """Show shards that are committed, each once: a run that was made again tells of them again."""
        new = [shard for shard in shards if shard not in self._done]
        self._done.update(new)
        if new:
            workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
            pace = self._stages().pace(time.perf_counter() - self._start)
            self._progress.update(sum(map(self._rows_of, new)), workers=workers, **pace)

    def _result(self, future: Future[None], run: Sequence[int]) -> None:
        """Raise what a task raised."""
        from distributed.scheduler import KilledWorker

        try:
            future.result()
        except KilledWorker as error:
            self._take_note()
            left = [str(shard) for shard in run if shard not in self._done]
            deaths = "once" if error.allowed_failures == 0 else f"{error.allowed_failures + 1} times"
            raise StoreError(
                f"a worker died with shard {' or '.join(left)} in hand, {deaths}: out of memory, or a teacher that "
                "crashes. Build without --dask to see which; committed shards are kept."
            ) from error
        self._count(run)
