"""A store gives back exactly what was built, or raises; any Zarr library reads the same."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import resource
import struct
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore as ts
import xxhash
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.files.damage import flip
from tests.support.processes.forked import in_own_process
from tests.support.stores import ROWS_PER_SHARD, layers, open_below, tables, write_store
from usjepa.cache.errors import DamageError, FormatError, HoleError, NotSealedError, StoreError, UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.shard import ShardLayout, pack_shard, parse_trailer
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("precision", ["float16", "float32", "int8"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_reading_gives_back_what_was_written(tmp_path: Path, precision: str, threads: int) -> None:
    content = write_store(tmp_path / "s", 11, precision)
    store = open_store(tmp_path / "s", threads=threads)
    rows = np.array([10, 0, 3, 3, 7, 4, 0])
    batch = store.read(rows)
    assert set(batch.arrays) == set(content)
    for name, array in content.items():
        np.testing.assert_array_equal(batch.arrays[name], array[rows])
    assert len(store) == 11
    assert store.latents == ["toy"]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_zarr_python_and_tensorstore_read_the_same_bits(tmp_path: Path, precision: str) -> None:
    write_store(tmp_path / "s", 10, precision)
    store = open_store(tmp_path / "s")
    for name in store.layers:
        ours = store.read(store.rows, layers=[name]).arrays[name]
        by_zarr = np.asarray(zarr.open_array(tmp_path / "s" / name, mode="r")[:])
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "s" / name)}}
        by_tensorstore = ts.open(spec).result().read().result()
        np.testing.assert_array_equal(ours.view(np.uint8), by_zarr.view(np.uint8))
        np.testing.assert_array_equal(ours.view(np.uint8), np.asarray(by_tensorstore).view(np.uint8))


def test_zarr_opens_the_store_as_a_group_with_every_layer(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 5)
    group: Any = zarr.open_group(tmp_path / "s", mode="r")
    assert group["latents/toy"].shape == (5, 4, 8)
    assert group["pixels"].attrs["usjepa"]["identity"] == {"recipe": "test"}


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_bit_flipped_in_a_shard_raises(tmp_path: Path, every: int) -> None:
    write_store(tmp_path / "s", 4)
    path = tmp_path / "s" / "latents/toy/c.0.0.0"
    clean = path.read_bytes()
    for byte in range(0, len(clean), every):
        flip(path, byte, 1 << byte % 8)
        with pytest.raises(DamageError, match=r"shard 0.* It shows a/000\d\.png") as raised:
            open_store(tmp_path / "s", threads=1).read([0, 1, 2, 3])
        assert (raised.value.layer, raised.value.shard) == ("latents/toy", 0)
        slot = byte // layers()["latents/toy"].layout.slot_nbytes
        assert raised.value.row == (slot if slot < 4 else 0), (
            "damage of a shard's end names the first row that needs it"
        )
        path.write_bytes(clean)
    open_store(tmp_path / "s").read([0, 1, 2, 3])


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "segments/000001/rows.parquet", "segments/000001/sources.parquet", "latents/toy/zarr.json"],
)
def test_a_changed_byte_in_any_file_about_the_rows_raises(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "s", 4)
    path = tmp_path / "s" / name
    clean = path.read_bytes()
    for byte in range(0, len(clean), 7):
        flip(path, byte)
        if name.endswith("zarr.json") and _same_layer(path, clean):
            continue  # a flip in what serves foreign readers alone (spaces, names) changes nothing that we read
        with pytest.raises((DamageError, FormatError)):
            _ = open_store(tmp_path / "s").table.label
        path.write_bytes(clean)


def _same_layer(path: Path, clean: bytes) -> bool:
    import json

    try:
        return bool(json.loads(path.read_bytes())["attributes"] == json.loads(clean)["attributes"])
    except (ValueError, KeyError):
        return False


def test_two_rows_swapped_within_a_shard_raise(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    path = tmp_path / "s" / "pixels/c.0.0.0.0"
    slot = layers()["pixels"].layout.slot_nbytes
    data = path.read_bytes()
    path.write_bytes(data[slot : 2 * slot] + data[:slot] + data[2 * slot :])
    with pytest.raises(DamageError, match="row 0"):
        open_store(tmp_path / "s").read([0])


def test_two_shards_swapped_raise(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 8)
    a, b = tmp_path / "s" / "pixels/c.0.0.0.0", tmp_path / "s" / "pixels/c.1.0.0.0"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(DamageError, match="swapped"):
        open_store(tmp_path / "s").read([0])


def test_an_older_shard_brought_back_raises(tmp_path: Path) -> None:
    write_store(tmp_path / "old", 8, seed=1)
    write_store(tmp_path / "new", 8, seed=2)
    old = tmp_path / "old" / "latents/toy/c.1.0.0"
    (tmp_path / "new" / "latents/toy/c.1.0.0").write_bytes(old.read_bytes())
    with pytest.raises(DamageError, match="stale"):
        open_store(tmp_path / "new").read([5])


@pytest.mark.parametrize("cut", [0, 1, 0.5, -1], ids=["zero-bytes", "one-byte", "half", "all-but-one"])
def test_a_cut_shard_raises(tmp_path: Path, cut: float) -> None:
    write_store(tmp_path / "s", 4)
    path = tmp_path / "s" / "pixels/c.0.0.0.0"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(DamageError, match="shard 0"):
        open_store(tmp_path / "s").read([1])


def test_a_missing_shard_raises_and_never_reads_as_zeros(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 8)
    (tmp_path / "s" / "pixels/c.1.0.0.0").unlink()
    store = open_store(tmp_path / "s")
    store.read([0, 3])
    with pytest.raises(DamageError, match=r"c\.1\.0\.0\.0.*missing"):
        store.read([4])


def test_zeros_and_fill_values_are_data_like_any_other(tmp_path: Path) -> None:
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(ROWS_PER_SHARD)
    writer.add_segment(*tables(3), 3)
    for layer in layers().values():
        writer.add_layer(layer)
        writer.write_shard(layer, 0, np.zeros((3, *layer.shape), layer.dtype), [], {})
    writer.seal()
    batch = open_store(tmp_path / "s").read([0, 1, 2])
    assert all(not array.any() for array in batch.arrays.values())


def test_a_hole_is_told_with_its_reason_and_not_counted(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 6, holes=((2, "a/0002.png: not a PNG"),))
    store = open_store(tmp_path / "s")
    assert store.rows.tolist() == [0, 1, 3, 4, 5]
    assert [store.table.sources[i].path for i in store.table.source] == [f"a/{i:04d}.png" for i in (0, 1, 3, 4, 5)]
    np.testing.assert_array_equal(store.read([3]).pixels, content["pixels"][[3]])
    with pytest.raises(HoleError, match="not a PNG"):
        store.read([1, 2])


@pytest.mark.parametrize("row", [-1, 10, 11, 10**12])
def test_rows_that_do_not_exist_raise(tmp_path: Path, row: int) -> None:
    write_store(tmp_path / "s", 10)
    with pytest.raises(HoleError, match=str(row)):
        open_store(tmp_path / "s").read([0, row])


def test_a_damaged_row_is_named_with_file_row_shard_and_source(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 8)
    flip(tmp_path / "s" / "latents/toy/c.1.0.0", 10)
    message = r"latents/toy/c\.1\.0\.0 \(shard 1\): row 4 .*a/0004\.png, frame 0"
    with pytest.raises(DamageError, match=message) as raised:
        open_store(tmp_path / "s").read([0, 4, 6])
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):  # as it comes from a worker process
        place = error.layer, error.shard, error.row, error.source
        assert place == ("latents/toy", 1, 4, "a/0004.png, frame 0, view 0")
        assert str(error) == str(raised.value)


def test_a_second_segment_starts_on_a_shard_boundary_and_moves_no_row(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 5)
    before = open_store(tmp_path / "s")
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(ROWS_PER_SHARD)
    segment = writer.add_segment(*tables(3, "b"), 3)
    assert segment.first_row == 8
    for layer in layers().values():
        writer.write_shard(layer, 2, np.ones((3, *layer.shape), layer.dtype), [], {"torch": "x"})
    assert writer.seal().generation == 2
    grown = open_store(tmp_path / "s")
    assert grown.rows.tolist() == [0, 1, 2, 3, 4, 8, 9, 10]
    assert [grown.table.sources[i].path for i in grown.table.source[5:]] == [f"b/{i:04d}.png" for i in range(3)]
    np.testing.assert_array_equal(grown.read([4, 0]).pixels, content["pixels"][[4, 0]])
    assert before.read([4]).pixels.tobytes() == content["pixels"][[4]].tobytes()
    assert open_store(tmp_path / "s", generation=1).digest == before.digest
    by_zarr = zarr.open_array(tmp_path / "s" / "latents/toy", mode="r")
    assert by_zarr.shape[0] == 11
    assert np.isnan(np.asarray(by_zarr[5:8])).all()


def test_sealing_an_unchanged_store_keeps_its_generation(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 5)
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(ROWS_PER_SHARD)
    assert writer.seal().generation == 1


def test_an_unsealed_store_is_refused_and_says_how_far_it_is(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, seal=False)
    (tmp_path / "s" / "commits/latents/toy/000001.json").unlink()
    with pytest.raises(NotSealedError, match="latents/toy 2/3 shards"):
        open_store(tmp_path / "s")
    partial = open_store(tmp_path / "s", allow_partial=True)
    assert partial.rows.tolist() == [0, 1, 2, 3, 8, 9]
    assert len(partial.read(partial.rows).pixels) == 6


def test_sealing_with_a_shard_missing_names_the_layer(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, seal=False)
    (tmp_path / "s" / "latents/toy/c.1.0.0").unlink()
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(ROWS_PER_SHARD)
    with pytest.raises(NotSealedError, match="latents/toy has 2 of 3 shards"):
        writer.seal()


def test_a_newer_major_format_is_refused_by_name(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    root = tmp_path / "s" / "zarr.json"
    root.write_text(root.read_text().replace('"major": 1', '"major": 3'))
    with pytest.raises(FormatError, match=r"store format 3\.0 is newer than format 2"):
        open_store(tmp_path / "s")


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="no store here"):
        open_store(tmp_path)
    zarr.create_group(tmp_path / "other")
    with pytest.raises(FormatError, match="not a usjepa store"):
        open_store(tmp_path / "other")


def test_a_lost_zarr_json_of_a_sealed_layer_is_never_made_anew(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    (tmp_path / "s" / "pixels/zarr.json").unlink()
    with pytest.raises(DamageError, match="never made anew"):
        StoreWriter(LocalStorage(tmp_path / "s")).create_or_open(ROWS_PER_SHARD)
    with pytest.raises(DamageError, match="never made anew"):
        open_store(tmp_path / "s")


def test_asking_for_another_teacher_names_those_there_are(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    with pytest.raises(UsageError, match="it holds toy"):
        open_store(tmp_path / "s").read([0], teacher="urfm")
    with pytest.raises(UsageError, match="no layer 'latent'"):
        open_store(tmp_path / "s").read([0], layers=["latent"])


def test_the_documented_row_checksum_is_what_a_stranger_computes(tmp_path: Path) -> None:
    import json

    write_store(tmp_path / "s", 6)
    meta = json.loads((tmp_path / "s/pixels/zarr.json").read_text())
    data = (tmp_path / "s/pixels/c.1.0.0.0").read_bytes()
    n = ROWS_PER_SHARD
    table = data[-(16 * n + 4) - (64 + 8 * n) : -(16 * n + 4)]
    magic, version, rows, digest, first, nbytes = struct.unpack_from("<8sII16sQQ", table)
    assert (magic, version, rows, first, nbytes) == (b"USJTABLE", 1, n, 4, 256)
    assert digest.hex() == meta["attributes"]["usjepa"]["digest"]
    slot = -(-(nbytes + 4) // 64) * 64
    seed = xxhash.xxh3_64_intdigest(digest + (5).to_bytes(8, "little"))
    assert xxhash.xxh3_64_intdigest(data[slot : 2 * slot], seed) == int.from_bytes(table[72:80], "little")


def _read_in_child(store: Store, rows: list[int], queue: Any) -> None:
    queue.put(store.read(rows).pixels.tobytes())


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(one, marks=pytest.mark.slow) for one in ("spawn", "forkserver"))]
)
@in_own_process
def test_a_store_read_before_is_read_by_children_of_every_start_method(tmp_path: Path, method: str) -> None:
    write_store(tmp_path / "s", 10)
    store = open_store(tmp_path / "s")
    expected = store.read([1, 9]).pixels.tobytes()
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    children = [context.Process(target=_read_in_child, args=(store, [1, 9], queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get() for _ in children] == [expected] * 2
    for child in children:
        child.join()
        assert child.exitcode == 0


def test_threads_share_a_store(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 40)
    store = open_store(tmp_path / "s")
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            rows = rng.integers(0, 40, 9)
            if not np.array_equal(store.read(rows).latents, content["latents/toy"][rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_a_store_keeps_few_files_open_however_many_shards_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    write_store(tmp_path / "s", 300, rows_per_shard=2)
    store = open_store(tmp_path / "s")
    store.read(store.rows)
    assert 3 <= len(open_below(tmp_path)) <= 128 + 8
    store.close()
    assert not open_below(tmp_path)


def test_a_pickled_store_reads_the_same(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 6)
    store = open_store(tmp_path / "s")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read([5]).pixels.tobytes() == store.read([5]).pixels.tobytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nbytes=st.integers(1, 200),
    full=st.integers(1, 9),
    present=st.lists(st.booleans(), min_size=1, max_size=9),
    first=st.integers(0, 2**40),
)
def test_any_shard_is_parsed_as_it_was_packed(nbytes: int, full: int, present: list[bool], first: int) -> None:
    layout = ShardLayout(max(full, len(present)), nbytes)
    rows = [bytes([i % 256]) * nbytes if there else None for i, there in enumerate(present)]
    data, table = pack_shard(rows, layout, bytes(16), first)
    trailer = parse_trailer(bytes(data[-layout.trailer_nbytes :]), len(data), layout, table, "here")
    for i, row in enumerate(rows):
        offset = int(trailer.offsets[i])
        assert (offset < 0) == (row is None)
        if row is not None:
            assert offset % 64 == 0
            assert data[offset : offset + nbytes] == row


def test_a_bad_read_of_a_share_is_read_again_and_one_that_stays_bad_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_store(tmp_path / "s", 10)
    real, left = os.preadv, [1]

    def sometimes_bad(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        got = real(handle, buffers, offset, flags)
        if left[0]:
            left[0] -= 1
            buffers[0][0] ^= 1
        return got

    monkeypatch.setattr(os, "preadv", sometimes_bad)
    store = open_store(tmp_path / "s", threads=1)
    for _ in range(2):  # the first read of a shard, and one of a shard whose end is known
        np.testing.assert_array_equal(store.read([3]).pixels[0], content["pixels"][3])
        left[0] = 1
    left[0] = 99
    with pytest.raises(DamageError, match="row 3 is not what was built"):
        store.read([3])


def test_a_handle_gone_stale_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_store(tmp_path / "s", 10)
    store = open_store(tmp_path / "s", threads=1)
    store.read([3])
    real, left = os.preadv, [1]

    def stale(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(handle, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", stale)
    np.testing.assert_array_equal(store.read([3]).latents[0], content["latents/toy"][3])
    left[0] = 9
    with pytest.raises(StoreError, match=r"c\.0.*can't be read"):
        store.read([3])
