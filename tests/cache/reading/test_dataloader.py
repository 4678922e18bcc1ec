"""A store under torch's DataLoader, whose workers are forked or spawned while the parent reads (faults 19 and 20)."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.support.processes import forked
from tests.support.stores import write_store
from usjepa.cache.reading.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 40


@dataclass
class Rows(torch.utils.data.Dataset[int]):
    """A dataset over a store, as strangers write them."""

    store: Store
    fatal: int = -1

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, rows: list[int]) -> Any:
        if self.fatal in rows and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.store.read(rows).latents


def first(batch: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(batch))


def loader(
    dataset: Rows, workers: int, method: str | None, ahead: int | None = None
) -> torch.utils.data.DataLoader[int]:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        timeout=60 if workers else 0,
        prefetch_factor=ahead,
        collate_fn=first,
    )


@pytest.mark.parametrize(
    ("method", "workers"),
    [
        pytest.param("fork", 0, id="no workers"),
        pytest.param("fork", 4, id="4 forked"),
        pytest.param("spawn", 4, id="4 spawned", marks=pytest.mark.slow),
        pytest.param("forkserver", 4, id="4 from a fork server", marks=pytest.mark.slow),
    ],
)
@forked.in_own_process
def test_workers_read_what_was_written_though_the_parent_reads_all_the_while(
    tmp_path: Path, method: str, workers: int
) -> None:
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker processes", UserWarning)
    content = write_store(tmp_path / "s", ROWS)["latents/toy"]
    store = open_store(tmp_path / "s")
    ended = threading.Event()

    def read_on() -> None:
        while not ended.is_set():
            store.read(range(10))

    reading = threading.Thread(target=read_on)
    reading.start()
    try:
        got = torch.cat(list(loader(Rows(store), workers, method)))
    finally:
        ended.set()
        reading.join()
    np.testing.assert_array_equal(got.numpy(), content)


def _lose_a_worker(root: str) -> None:
    """Torch raises a worker's death wherever the main thread happens to be, even in a finalizer."""
    store = open_store(root)
    before = store.read([22]).latents.copy()
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        # One batch ahead: the worker has handed over all that it made before. A batch of a dead worker that is still on
        # its way would raise what torch meets in fetching it (a reset connection), now and then.
        list(loader(Rows(store, fatal=22), 2, "fork", ahead=1))
    np.testing.assert_array_equal(store.read([22]).latents, before)
    os._exit(0)  # before torch ends the other worker, which may raise again


def test_a_killed_worker_is_an_error_that_names_it_and_not_a_hang_and_the_store_reads_on(tmp_path: Path) -> None:
    write_store(tmp_path / "s", ROWS)
    assert forked.run(_lose_a_worker, str(tmp_path / "s")) == 0
