"""Memory that batches are read into: aligned, the caller's own, lent and used again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.stores import layers, write_store
from usjepa.cache.errors import UsageError
from usjepa.cache.reading.batch_memory import BatchMemory, Ring
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.memory import aligned_empty


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 64), (100, 3, 1000)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_memory_begins_at_a_cache_line_whatever_its_shape(shape: tuple[int, ...], dtype: str) -> None:
    kept = [aligned_empty(shape, dtype) for _ in range(8)]
    assert all(array.ctypes.data % 64 == 0 and array.shape == shape and array.dtype == dtype for array in kept)


def test_reading_into_memory_of_the_callers_fills_that_very_memory_and_nothing_behind_it(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 20)
    store, memory = open_store(tmp_path / "s"), BatchMemory()
    first = store.read(range(12), out=memory.arrays(store.layers, 12))
    held = memory.arrays(store.layers, 12)
    behind = {name: held[name][5:].copy() for name in held}
    batch = store.read([19, 3, 3, 0, 7], out=held)
    for name, array in batch.arrays.items():
        np.testing.assert_array_equal(array, content[name][[19, 3, 3, 0, 7]])
        assert np.shares_memory(array, first.arrays[name])
        np.testing.assert_array_equal(held[name][5:], behind[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], "needs a writeable"),
        (lambda a: a.astype(np.float64), "needs a writeable"),
        (lambda a: a[:, ::-1], "needs a writeable"),
        (lambda a: None, "no array for layer"),
    ],
    ids=["too few rows", "other dtype", "not contiguous", "missing"],
)
def test_memory_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path, change: Any, message: str) -> None:
    write_store(tmp_path / "s", 8)
    store = open_store(tmp_path / "s")
    out = BatchMemory().arrays(store.layers, 4)
    changed = change(out.pop("latents/toy"))
    if changed is not None:
        out["latents/toy"] = changed
    with pytest.raises(UsageError, match=message):
        store.read(range(4), out=out)


def test_a_ring_lends_each_memory_once_and_gives_the_same_ones_again(tmp_path: Path) -> None:
    ring, kinds = Ring(2), layers()
    one, two = ring.take(), ring.take()
    assert one is not two
    with pytest.raises(UsageError, match="all 2 batch memories are lent"):
        ring.take(timeout_s=0.01)
    before = one.arrays(kinds, 6)["pixels"].ctypes.data
    ring.release(one)
    with pytest.raises(UsageError, match="not lent"):
        ring.release(one)
    again = ring.take()
    assert again is one
    assert again.arrays(kinds, 3)["pixels"].ctypes.data == before


def test_memory_does_not_grow_with_the_rows_that_were_read(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 400, rows_per_shard=20)
    store, memory = open_store(tmp_path / "s"), BatchMemory()
    rng = np.random.default_rng(0)

    def read(times: int) -> int:
        for _ in range(times):
            store.read(rng.integers(0, 400, 32), out=memory.arrays(store.layers, 32))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = read(50)
    assert read(500) - before < 2 << 20
