"""A store in a bucket is the same store: an S3 server on loopback, real requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import obstore
import pytest
import zarr
from obstore.store import from_url

from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.stores import ROWS_PER_SHARD, arrays, build_all, layers, tables, write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import DamageError, FormatError, NotSealedError, StoreError, WriteError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_behind_proxy("frames"):
        yield "s3://frames"


def write(url: str, rows: int = 10) -> StoreWriter:
    writer = StoreWriter(ObjectStorage(url))
    writer.create_or_open(ROWS_PER_SHARD)
    writer.add_segment(*tables(rows), rows)
    for layer in layers().values():
        writer.add_layer(layer)
        content = arrays(layer, rows)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, content[numbers.start : numbers.stop], [], {"torch": "x"})
    return writer


def test_a_store_in_a_bucket_reads_bit_for_bit_like_a_local_one(bucket: str, tmp_path: Path) -> None:
    write(f"{bucket}/same").seal()
    write_store(tmp_path / "s", 10)
    remote, local = open_store(f"{bucket}/same"), open_store(tmp_path / "s")
    rows = np.array([9, 0, 4, 4, 7])
    for name, array in local.read(rows).arrays.items():
        np.testing.assert_array_equal(remote.read(rows).arrays[name], array)
    assert remote.digest == local.digest
    assert verify(f"{bucket}/same").damages == []


def test_zarr_python_reads_the_bucket_too(bucket: str) -> None:
    write(f"{bucket}/zarr").seal()
    store = zarr.storage.ObjectStore(from_url(f"{bucket}/zarr"), read_only=True)
    by_zarr = np.asarray(zarr.open_array(store, path="latents/toy", mode="r")[:])
    np.testing.assert_array_equal(by_zarr, open_store(f"{bucket}/zarr").read(range(10)).latents)


def test_layers_of_a_bucket_are_zarr_and_dask_arrays_too(bucket: str) -> None:
    write(f"{bucket}/arrays").seal()
    store = open_store(f"{bucket}/arrays")
    latents = store.read(range(10)).latents
    np.testing.assert_array_equal(np.asarray(store.zarr_array("latents/toy")[:]), latents)
    np.testing.assert_array_equal(store.dask_array("latents/toy").compute(scheduler="threads"), latents)


def test_a_flipped_byte_in_the_bucket_raises(bucket: str) -> None:
    write(f"{bucket}/flipped").seal()
    raw = from_url(f"{bucket}/flipped")
    data = bytearray(obstore.get(raw, "pixels/c.1.0.0.0").bytes())
    data[3] ^= 1
    obstore.put(raw, "pixels/c.1.0.0.0", bytes(data))
    with pytest.raises(DamageError, match="row 4"):
        open_store(f"{bucket}/flipped").read([4])
    obstore.delete(raw, "pixels/c.1.0.0.0")
    with pytest.raises(DamageError, match="missing"):
        open_store(f"{bucket}/flipped").read([4])


def test_a_shard_without_its_record_counts_as_not_built(bucket: str) -> None:
    writer = write(f"{bucket}/unfinished")
    obstore.delete(from_url(f"{bucket}/unfinished"), "commits/latents/toy/000002.json")
    with pytest.raises(NotSealedError, match="latents/toy has 2 of 3 shards"):
        writer.seal()
    assert "not sealed" in status_report(f"{bucket}/unfinished")


def test_only_one_of_two_creates_the_same_object(bucket: str) -> None:
    storage = ObjectStorage(f"{bucket}/claims")
    assert storage.create("one.json", b"mine")
    assert not storage.create("one.json", b"yours")
    assert storage.read("one.json") == b"mine"
    storage.delete("one.json")
    storage.delete("one.json")
    assert storage.create("one.json", b"yours")


def test_names_and_folders_are_those_of_one_level(bucket: str) -> None:
    storage = ObjectStorage(f"{bucket}/levels")
    for name in ("a.json", "b/c.json", "b/d/e.json"):
        storage.publish(name, b"x")
    assert (storage.names(""), storage.folders("")) == (["a.json"], ["b"])
    assert (storage.names("b"), storage.folders("b")) == (["c.json"], ["d"])
    assert storage.read_ranges("a.json", [(0, 1), (0, 0)]) == [b"x", b""]
    assert storage.size("none") is None


def test_a_whole_build_goes_into_a_bucket_and_a_second_one_does_nothing(bucket: str, phantom_store: Path) -> None:
    from tests.support.runs import TINY_STORE

    recipe = load_recipe("demo", TINY_STORE)
    build(f"{bucket}/built", recipe, BuildRequest(teacher="random"))
    local, remote = open_store(phantom_store), open_store(f"{bucket}/built")
    assert remote.digest == local.digest
    np.testing.assert_array_equal(remote.read(remote.rows[:20]).latents, local.read(local.rows[:20]).latents)
    assert build_all(f"{bucket}/built", recipe, BuildRequest(teacher="random")).generation == 1


def test_a_missing_bucket_is_said(bucket: str) -> None:
    with pytest.raises(StoreError, match="Check the bucket"):
        StoreWriter(ObjectStorage("s3://nowhere-at-all/x")).create_or_open(4)
    with pytest.raises(WriteError, match="Check that the bucket exists"):
        ObjectStorage("s3://nowhere-at-all/x").publish("zarr.json", b"{}")
    with pytest.raises(FormatError, match="no store here"):
        open_store(f"{bucket}/none")
