"""Statistics of a store are those of its arrays, wherever and in whatever order its shards are read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.support.files.damage import flip
from tests.support.processes.forked import in_own_process
from tests.support.stores import write_store
from usjepa.cache.cli import main
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.stats import merged, moments_of, stats

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("precision", ["float16", "float32", "int8"])
def test_moments_are_those_of_the_whole_array(tmp_path: Path, precision: str) -> None:
    write_store(tmp_path / "s", 30, precision)
    store = open_store(tmp_path / "s")
    whole = store.read(store.rows).targets().numpy().astype(np.float64)
    found = stats(str(tmp_path / "s")).moments["a"]
    tokens = whole.reshape(-1, whole.shape[2])
    np.testing.assert_allclose(found.mean_D, tokens.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variance, tokens.var(axis=0), rtol=1e-9)
    pooled = whole.mean(axis=1)
    values = np.linalg.svd(pooled - pooled.mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert (found.rows, found.tokens, found.not_finite) == (30, len(tokens), 0)


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(0, 20))
def test_merging_parts_gives_the_moments_of_the_whole(seed: int, total: int, cut: int) -> None:
    latents = np.random.default_rng(seed).normal(3, 2, (total, 3, 4)).astype(np.float32)
    a, b = moments_of(latents[:cut]), moments_of(latents[cut:])
    for both in (merged(a, b), merged(b, a)):
        whole = moments_of(latents)
        assert (both.rows, both.tokens) == (whole.rows, whole.tokens)
        np.testing.assert_allclose(both.deviation_D, whole.deviation_D, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(both.pooled_scatter_DD, whole.pooled_scatter_DD, rtol=1e-9, atol=1e-9)


def test_a_constant_channel_and_values_that_are_not_finite_are_counted() -> None:
    latents = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    latents[:, :, 2] = 7
    latents[1, 0, 0] = np.nan
    latents[4, 2, 3] = np.inf
    found = moments_of(latents)
    assert found.constant_channels == [2]
    assert (found.not_finite, found.tokens, found.rows) == (2, 16, 4)


def test_rows_with_the_same_pixels_are_named(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, seal=False)
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.attach()
    layer = writer.state.layers["pixels"]
    rows = open_store(tmp_path / "s", allow_partial=True).read(range(10)).pixels
    rows[7] = rows[1]
    rows[9] = rows[2]
    for shard in (1, 2):
        (tmp_path / f"s/commits/pixels/{shard:06d}.json").unlink()
        numbers = writer.state.rows_of_shard(shard)
        writer.write_shard(layer, shard, rows[numbers.start : numbers.stop], (), {"torch": "x"})
    writer.seal()
    found = stats(str(tmp_path / "s"))
    assert found.duplicates == [[1, 7], [2, 9]]
    assert "rows whose pixels another row has too: 2 (such as 1=7, 2=9)" in str(found)


def test_damage_and_a_wrong_teacher_are_said(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    with pytest.raises(UsageError, match="it holds toy"):
        stats(str(tmp_path / "s"), teacher="other")
    path = tmp_path / "s/latents/toy/c.1.0.0"
    flip(path, 5)
    with pytest.raises(DamageError, match="row 4 is not what was built"):
        stats(str(tmp_path / "s"))


def test_the_command_prints_a_table_and_writes_every_channel(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    ended = CliRunner().invoke(main, ["stats", str(tmp_path / "s"), "-o", str(tmp_path / "stats.json")])
    assert ended.exit_code == 0, ended.output
    assert "effective rank" in ended.output
    written = json.loads((tmp_path / "stats.json").read_text())
    assert len(written["datasets"]["a"]["mean"]) == 8


@pytest.mark.slow
@in_own_process
def test_a_cluster_gives_the_same_figures(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 30)
    here, there = stats(str(tmp_path / "s")), stats(str(tmp_path / "s"), dask="local:2")
    assert here.duplicates == there.duplicates
    np.testing.assert_allclose(here.moments["a"].mean_D, there.moments["a"].mean_D, rtol=1e-12)
