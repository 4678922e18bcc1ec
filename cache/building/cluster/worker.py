"""Make a run of shards in a worker: the task of a cluster build.

A worker attaches to the store, keeps its teacher, its decoding processes and its pipeline from run to run, and
publishes shards itself, after a check before each rename that the client's claim still stands. A run gives its place to
the next one once its last shard has begun, so that no stage waits between two runs.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from typing import TYPE_CHECKING, Any

from usjepa.cache.building.cluster.order import Told
from usjepa.cache.building.latent_job import LatentJob, job_of_stored_layers
from usjepa.cache.building.pipeline import Pipeline
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.decoding.cutters import Cutters, processes_by_default
from usjepa.cache.errors import ClaimedError, Interrupted, StoreError
from usjepa.cache.interrupt import at_own_safe_points, pool
from usjepa.cache.processors import cores
from usjepa.cache.reading.process import short_turns
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Listing
from usjepa.cache.storage.claims import check_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import committed_shard
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from distributed import Worker

    from usjepa.cache.building.cluster.order import WorkOrder
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.commits import Commits

_ASK_EVERY_S = 2.0
"""Seconds between two looks at the client's claim."""


class _ClientLives:
    """Ends the work at its next safe point once the client's claim is gone: it was stopped, or another took over."""

    def __init__(self, storage: Storage, claim: tuple[str, str]) -> None:
        self._storage, self._claim = storage, claim
        self._asked, self._gone = time.monotonic(), ""

    def __call__(self) -> None:
        """Raise Interrupted when the client is gone; the claim is looked at now and then."""
        if not self._gone and time.monotonic() - self._asked >= _ASK_EVERY_S:
            self._asked = time.monotonic()
            try:
                check_claim(self._storage, self._claim)
            except ClaimedError as error:
                self._gone = str(error)
            except (StoreError, OSError):
                return  # a share that fails once; nothing is published without a look at the claim
        if self._gone:
            raise Interrupted(self._gone)

    def stop(self) -> None:
        """End the work of this build now."""
        self._gone = self._gone or "the client has ended the build."


class _Line:
    """What a worker keeps from run to run of one build."""

    def __init__(self, order: WorkOrder, own_gpu: str | None) -> None:
        storage = open_storage(order.store)
        self.client_lives = _ClientLives(storage, order.claim)
        writer = StoreWriter(storage, lambda: check_claim(storage, order.claim))
        writer.attach()
        with at_own_safe_points(self.client_lives):
            self._make_pipeline(order, writer, own_gpu)
        self._turns = contextlib.ExitStack()
        self._turns.enter_context(short_turns())

    def _make_pipeline(self, order: WorkOrder, writer: StoreWriter, own_gpu: str | None) -> None:
        self._lane = pool(1, "teacher")
        job = self._lane.submit(_job, order, writer, own_gpu).result()
        self._cutters = _cutters(order, writer)
        commits: Commits = {name: {} for name in writer.state.layers}
        self._maker = ShardMaker(writer, commits, self._cutters, order.skip_errors, job)
        self._pipeline = Pipeline(self._maker, [self._lane])

    def told(self, worker: str, shard: int) -> Told:
        """Return what the client is told once a shard is committed."""
        processes = f"{self._maker.lookahead} processes" if self._cutters is not None else "no process"
        memory = f"at most {self._pipeline.most} shards, {self._pipeline.nbytes / 1e6:,.0f} MB, in memory at a time"
        how = f"decodes in {processes}, has {memory}, and its teacher"
        return Told(worker=worker, how=how, shard=shard, stages=self._maker.stages.told())

    def begin(self, shard: int) -> Future[int] | None:
        """Begin a shard once there is room for it; none where another worker has made it."""
        for layer in self._maker.layers:
            found = committed_shard(self._maker.writer.storage, layer, shard)
            if found is not None:
                self._maker.commits[layer.name][shard] = found
        return None if self._maker.is_done(shard) else self._pipeline.begin(shard)

    def close(self) -> None:
        """End what is under way, and the decoding processes."""
        self.client_lives.stop()
        self._pipeline.close()
        if self._cutters is not None:
            self._cutters.close()
        self._turns.close()


_lines: dict[tuple[str, str], _Line] = {}
"""Of each claim whose shards this process makes."""
_MAKING = threading.Lock()
"""One thread loads the teacher: it is large, and random weights are drawn from one generator of the whole process."""


def make_run(order: WorkOrder, shards: Sequence[int]) -> None:
    """Make and publish those of some shards that are not made yet, and tell of each.

    Raises:
        UsjepaError: what the first that failed raised; shards committed before stay.
        Interrupted: the client is gone.
    """
    line, worker = _line(order), _worker()
    begun: list[tuple[int, Future[int] | None]] = []
    with at_own_safe_points(line.client_lives):
        for shard in shards:
            line.client_lives()
            begun.append((shard, line.begin(shard)))
            if any(future is not None and future.done() and future.exception() for _, future in begun):
                break
        if worker is not None:
            _give_way()
        for shard, future in begun:
            if future is not None:
                future.result()
            if worker is not None:
                worker.log_event(order.topic, line.told(worker.address, shard))


def forget(claim: tuple[str, str]) -> None:
    """End what this process does for a build, and free its teacher and decoding processes, without waiting for it."""
    line = _lines.pop(claim, None)
    if line is not None:
        line.client_lives.stop()
        threading.Thread(target=line.close, name="forget", daemon=True).start()


def _give_way() -> None:
    """Let the worker begin its next task beside this one."""
    from distributed import secede

    secede()


def _worker() -> Worker | None:
    """Return the worker that runs this thread's task, if it is one."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _line(order: WorkOrder) -> _Line:
    """Return what this process keeps for an order; what it kept for builds that are over is freed."""
    with _MAKING:
        if order.claim not in _lines:
            for claim in [claim for claim, line in list(_lines.items()) if _is_over(line)]:
                forget(claim)
            _lines[order.claim] = _Line(order, _own_gpu())
        return _lines[order.claim]


def _is_over(line: _Line) -> bool:
    try:
        line.client_lives()
    except Interrupted:
        return True
    return False


def _cutters(order: WorkOrder, writer: StoreWriter) -> Cutters | None:
    if order.source is None:
        return None
    processes = order.settings.decode_processes or processes_by_default(order.neighbours)
    settings = order.settings.model_copy(update={"decode_processes": processes})
    return Cutters(writer.storage, writer.state.segments, _listing(order, order.source), settings)


def _job(order: WorkOrder, writer: StoreWriter, own_gpu: str | None) -> LatentJob | None:
    """Load the teacher, in the thread that will run it."""
    import torch

    if order.teacher is None:
        return None
    assert order.teacher.batch_size is not None  # the build has seen to it
    torch.set_num_threads(max(1, cores() // order.neighbours))  # of this thread; Dask's processes start with one
    # The same path may hold another checkpoint on this machine.
    where = f"{order.store}, worker on {platform.node()}"
    return job_of_stored_layers(writer.state, order.settings, order.teacher, order.device or own_gpu, {}, where)


def _listing(order: WorkOrder, source: str) -> Listing:
    # Aliases are only known from the whole listing, which is not worth making when there are none.
    return list_source(source, order.settings, groups=False) if order.settings.hash_paths else Listing(order.root, ())


def _own_gpu() -> str | None:
    """Return the GPU of this worker: worker i takes GPU i; none without GPUs."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return None
    worker = _worker()
    name: Any = worker.name if worker is not None else None
    return f"cuda:{int(name) % count}" if str(name).isdigit() else "cuda:0"
