"""Connect to a Dask cluster, or start one here, while this process does something else.

A module of few imports: what a builder and its workers import takes seconds, which both then spend at the same time.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from usjepa.cache.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

_LOCAL = "local:"
_TRIMS = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
"""Dask has workers give memory back at once. Arrays of an image's size would then be fresh memory each time, which
made decoding take 1.7 times as long."""


def check_address(address: str) -> None:
    """Raise UsageError when `local:N` is not what it should be; another address is only tried by connecting."""
    count = address.removeprefix(_LOCAL)
    if address.startswith(_LOCAL) and not (count.isdigit() and 1 <= int(count) <= 1024):
        raise UsageError(f"--dask {address}: give the number of worker processes, for example --dask local:4.")


def get_ready() -> None:
    """Import what runs need: it takes seconds."""
    import usjepa.cache.building.cluster.worker  # noqa: F401


@contextlib.contextmanager
def connecting(address: str) -> Iterator[Callable[[], Client]]:
    """Begin to connect, and have the workers get ready; give what waits for the client.

    That raises as `connect` does.
    """
    from distributed import LocalCluster  # noqa: F401 - here: two threads import nothing together

    def begin() -> Client:
        client = stack.enter_context(connect(address))
        # Not as a task, which has a thread of its own: what a task is told is unpickled, and so imported, where it is
        # received, and Python 3.11 can't parse code in two threads at once ("AST constructor recursion depth mismatch",
        # of pydantic's docstrings). A worker that fails there is cut off for good.
        client.run(get_ready, on_error="ignore")
        return client

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1, "usjepa-cluster") as thread:
        yield thread.submit(begin).result


@contextlib.contextmanager
def connect(address: str) -> Iterator[Client]:
    """Give a client of the cluster at an address, or of one on this machine (`local:N`, N worker processes).

    Raises:
        UsageError: the address is none, or nobody answers there.
    """
    import dask
    from distributed import Client, LocalCluster

    if not address.startswith(_LOCAL):
        try:
            client = Client(address, timeout="30s")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--dask {address}: no scheduler answers there ({error}). Or use --dask local:N."
            ) from error
        with contextlib.closing(client):  # a `with` of its own remembers the thread that it began in
            yield client
        return
    check_address(address)
    workers = int(address.removeprefix(_LOCAL))
    from usjepa.cache.building.cluster.nanny import LocalNanny

    try:
        with dask.config.set({_TRIMS: None}):
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                worker_class=LocalNanny,
                dashboard_address=None,
                memory_limit=0,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # another cluster may have the usual port
            )
    except Exception as error:  # whatever psutil, multiprocessing or a worker's start raises
        raise StoreError(
            f"--dask {address}: the worker processes did not start ({_first_cause(error)}). They need /dev/shm and "
            "/proc, free memory and free ports. Or build with --part I/N, one process each."
        ) from error
    with cluster, contextlib.closing(Client(cluster)) as client:
        yield client
        for nanny in cluster.workers.values():
            nanny.done = True


def _first_cause(error: BaseException) -> str:
    """Return what an error of the cluster began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
