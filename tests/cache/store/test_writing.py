"""Whole shards in reused memory: the same bytes, nothing left over from the shard before, nothing non-finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import write_store
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.shard import ShardLayout, pack_shard
from usjepa.cache.store.writer import finite_rows

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(1, 300), st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 255))
def test_a_shard_does_not_depend_on_what_its_memory_held_before(nbytes: int, present: list[bool], old: int) -> None:
    layout = ShardLayout(len(present), nbytes)
    rows = [bytes([i]) * nbytes if there else None for i, there in enumerate(present)]
    dirty = pack_shard(rows, layout, bytes(16), 0, lambda n: memoryview(bytearray([old]) * n))
    assert bytes(dirty[0]) == bytes(pack_shard(rows, layout, bytes(16), 0)[0])
    assert dirty[1] == pack_shard(rows, layout, bytes(16), 0)[1]


def test_shards_of_layers_of_other_sizes_share_memory_and_keep_their_bytes(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 11, "int8", holes=((2, "unreadable"),))
    store = open_store(tmp_path / "s")
    for name, array in store.read(store.rows, layers=list(store.layers)).arrays.items():
        np.testing.assert_array_equal(array, content[name][store.rows])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, "max", "min", "tiny"])
def test_finite_rows_are_those_that_numpy_calls_finite(dtype: str, value: float | str) -> None:
    limits = np.finfo(dtype)
    named = {"max": limits.max, "min": limits.min, "tiny": limits.smallest_subnormal}
    rows = np.random.default_rng(0).standard_normal((5, 3, 7)).astype(dtype)
    rows[3, 2, 6] = named[value] if isinstance(value, str) else value
    assert [finite_rows(rows)(i) for i in range(5)] == np.isfinite(rows).all(axis=(1, 2)).tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_float16_pattern_is_judged_as_numpy_judges_it(dtype: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16).view(np.float16).astype(dtype)[:, None]
    is_finite = finite_rows(patterns)
    assert [is_finite(i) for i in range(len(patterns))] == np.isfinite(patterns[:, 0]).tolist()
