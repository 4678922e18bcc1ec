"""Connect to a Dask cluster, or start one on this machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from usjepa.cache.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        with client:
            yield client
        return
    check_address(address)
    workers = int(address.removeprefix(_LOCAL))
    try:
        with dask.config.set({_TRIMS: None}):
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
