"""Layers as Zarr and Dask arrays: the same bits as batches; Dask's are checked, and have no holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.stores import write_store
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.reading.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

HOLES = ((3, "a/0003.png: torn"), *((row, "a/clip.mp4: torn") for row in range(7, 14)))
"""One row of the first shard of seven, and all of the second."""


@pytest.mark.parametrize("layer", ["pixels", "regions", "latents/toy", "scales/toy"])
def test_a_dask_array_holds_the_rows_that_exist_a_block_per_shard(tmp_path: Path, layer: str) -> None:
    content = write_store(tmp_path / "s", 30, "int8", rows_per_shard=7, holes=HOLES)
    store = open_store(tmp_path / "s")
    array = store.dask_array(layer)
    assert array.chunks[0] == (6, 7, 7, 2)
    assert array.dtype == content[layer].dtype
    np.testing.assert_array_equal(array.compute(scheduler="threads"), content[layer][store.rows])
    np.testing.assert_array_equal(array[5:14].compute(scheduler="sync"), content[layer][store.rows[5:14]])


def test_a_dask_array_reads_when_it_is_computed_and_only_the_shards_that_are_needed(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 30, rows_per_shard=7)
    (tmp_path / "s/latents/toy/c.2.0.0").write_bytes(b"damaged")
    array = open_store(tmp_path / "s").dask_array("latents/toy")
    np.testing.assert_array_equal(array[:14].compute(scheduler="sync"), content["latents/toy"][:14])
    with pytest.raises(DamageError, match="Row 14 needs it") as raised:
        array.sum().compute(scheduler="threads")
    assert (raised.value.layer, raised.value.shard, raised.value.row) == ("latents/toy", 2, 14)


def test_a_zarr_array_is_indexed_by_row_number_and_read_only_and_holes_are_the_fill_value(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 30, rows_per_shard=7, holes=HOLES)
    store = open_store(tmp_path / "s")
    latents, pixels = store.zarr_array("latents/toy"), store.zarr_array("pixels")
    np.testing.assert_array_equal(np.asarray(latents[:])[store.rows], content["latents/toy"][store.rows])
    assert np.isnan(np.asarray(latents[7:14])).all()
    assert not np.asarray(pixels[3]).any()
    with pytest.raises(ValueError, match="read-only"):
        latents[0] = 0


def test_an_unknown_layer_is_refused_by_name(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    store = open_store(tmp_path / "s")
    for array in (store.zarr_array, store.dask_array):
        with pytest.raises(UsageError, match="no layer 'latents/urfm'; it holds latents/toy"):
            array("latents/urfm")
