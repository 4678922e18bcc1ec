"""Make shards on a Dask cluster, of which any worker may die.

A task is a shard, and a worker keeps its teacher from task to task.

The client holds the build's claim and has made segments and layers; workers attach to the store, make shards and
publish them themselves, after a check before each rename that the client's claim still stands. What a dead worker had
in hand is given to another. When scheduler or client die, committed shards stay, and the next build goes on from them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import platform
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from usjepa.cache.building.latent_job import LatentJob, job_of_stored_layers
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.building.stages import Stages
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.errors import StoreError, UsageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Listing
from usjepa.cache.storage.claims import check_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import committed_shard
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client, Future

    from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings

_POLL_S = 0.5
_LOCAL = "local:"
_GONE = "the Dask scheduler is gone"


@dataclass(frozen=True)
class WorkOrder:
    """Everything that a worker needs to make any shard of a store; small, and equal for all tasks of a build."""

    store: str
    settings: CacheSettings
    source: str | None
    """What the build was given, an absolute path or `phantom`; none when no pixels have to be cut."""
    root: Path | None
    """Folder of the sources; none for the phantom."""
    teacher: TeacherSettings | None
    device: str | None
    skip_errors: bool
    claim: tuple[str, str]
    """Token of the client's claim."""

    def __hash__(self) -> int:
        # A teacher's settings hold a dict, which has no hash of its own; no two orders share a claim.
        return hash((self.store, self.claim))


_LOADING = threading.Lock()
"""One thread loads the teacher: it is large, and random weights are drawn from one generator of the whole process."""


def check_address(address: str) -> None:
    """Raise UsageError when `local:N` is not what it should be; another address is only tried by connecting."""
    count = address.removeprefix(_LOCAL)
    if address.startswith(_LOCAL) and not (count.isdigit() and 1 <= int(count) <= 1024):
        raise UsageError(f"--dask {address}: give the number of worker processes, for example --dask local:4.")


@contextlib.contextmanager
def connect(address: str) -> Iterator[Client]:
    """Give a client of the cluster at an address, or of one on this machine (`local:N`, N worker processes).

    Raises:
        UsageError: the address is none, or nobody answers there.
    """
    from distributed import Client, LocalCluster

    if not address.startswith(_LOCAL):
        try:
            client = Client(address, timeout="30s")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--dask {address}: no scheduler answers there ({error}). Or use --dask local:N."
            ) from error
        with client:
            yield client
        return
    check_address(address)
    workers = int(address.removeprefix(_LOCAL))
    try:
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        )
    except Exception as error:  # whatever psutil, multiprocessing or a worker's start raises
        raise StoreError(
            f"--dask {address}: the worker processes did not start ({_first_cause(error)}). They need /dev/shm and "
            "/proc, free memory and free ports. Or build with --part I/N, one process each."
        ) from error
    with cluster, Client(cluster) as client:
        yield client


def _first_cause(error: BaseException) -> str:
    """Return what an error of the cluster began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def make_shards_on(address: str, order: WorkOrder, todo: Sequence[int], rows_of: Callable[[int], int]) -> None:
    """Make and publish shards on a cluster.

    Args:
        address: as for `connect`.
        order: what the workers need.
        todo: the shards.
        rows_of: number of rows of a shard, for the progress.

    Raises:
        UsjepaError: what a task raised, or the cluster is gone; committed shards stay.
    """
    from distributed.comm.core import CommClosedError

    try:
        _run(address, order, todo, rows_of)
    except (CommClosedError, concurrent.futures.CancelledError, asyncio.CancelledError) as error:
        raise StoreError(f"{_GONE} or was restarted. Committed shards are kept: run the same command again.") from error


def _run(address: str, order: WorkOrder, todo: Sequence[int], rows_of: Callable[[int], int]) -> None:
    from distributed.comm.core import CommClosedError

    with connect(address) as client, ProgressBar(sum(map(rows_of, todo)), "build", unit="rows") as progress:
        futures = {
            client.submit(make_shard, order, shard, pure=False, priority=-place): shard
            for place, shard in enumerate(todo)
        }
        try:
            for future in _finished(client, list(futures)):
                _result(future, futures[future])
                workers = len(client.scheduler_info(n_workers=-1)["workers"])
                progress.update(rows_of(futures[future]), workers=workers)
        except BaseException:
            with contextlib.suppress(CommClosedError):  # no scheduler is left to cancel them
                client.cancel(list(futures), force=True)
            raise


def _finished(client: Client, futures: list[Future[None]]) -> Iterator[Future[None]]:
    """Yield futures as they finish well; raise when one failed or the scheduler is gone."""
    from distributed import wait

    pending = set(futures)
    while pending:
        safe_point()
        try:
            wait(pending, timeout=_POLL_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            continue
        ended = {future for future in pending if future.status != "pending"}
        yield from ended  # those that were cancelled or lost raise when they are asked for their result
        pending -= ended


def _result(future: Future[None], shard: int) -> None:
    """Raise what a task raised."""
    from distributed.scheduler import KilledWorker

    try:
        future.result()
    except KilledWorker as error:
        raise StoreError(
            f"shard {shard} crashed {error.allowed_failures + 1} workers: out of memory, or a source file that crashes "
            "its decoder. Build it without --dask to see which; committed shards are kept."
        ) from error


def make_shard(order: WorkOrder, shard: int) -> None:
    """Make one shard in a worker: the task of a cluster build."""
    with _LOADING:
        shared = _maker(order, os.getpid())
    # A worker of several threads runs as many tasks at once: they share what is dear, and nothing that is a shard's.
    maker = replace(shared, commits={}, stages=Stages())
    for layer in maker.layers:
        found = committed_shard(maker.writer.storage, layer, shard)
        maker.commits[layer.name] = {shard: found} if found is not None else {}
    if not maker.is_done(shard):
        maker.make(shard)


@lru_cache(maxsize=2)
def _maker(order: WorkOrder, process: int) -> ShardMaker:
    """Return this process's maker for an order; the teacher is loaded once."""
    del process  # only in the key: a forked child has its own
    storage = open_storage(order.store)
    writer = StoreWriter(storage, lambda: check_claim(storage, order.claim))
    writer.attach()
    cutters = None
    if order.source is not None:
        settings = order.settings.model_copy(update={"decode_processes": 1})
        cutters = Cutters(storage, writer.state.segments, _listing(order, order.source), settings)
    return ShardMaker(writer, {}, cutters, order.skip_errors, _job(order, writer))


def _job(order: WorkOrder, writer: StoreWriter) -> LatentJob | None:
    if order.teacher is None:
        return None
    assert order.teacher.batch_size is not None  # the build has seen to it
    # The same path may hold another checkpoint on this machine.
    where = f"{order.store}, worker on {platform.node()}"
    return job_of_stored_layers(writer.state, order.settings, order.teacher, order.device or _own_gpu(), {}, where)


def _listing(order: WorkOrder, source: str) -> Listing:
    # Aliases are only known from the whole listing, which is not worth making when there are none.
    return list_source(source, order.settings, groups=False) if order.settings.hash_paths else Listing(order.root, ())


def _own_gpu() -> str | None:
    """Return the GPU of this worker: worker i takes GPU i; none without GPUs."""
    import torch
    from distributed import get_worker

    count = torch.cuda.device_count()
    if not count:
        return None
    name: Any = get_worker().name
    return f"cuda:{int(name) % count}" if str(name).isdigit() else "cuda:0"
