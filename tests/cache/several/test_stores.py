"""Several stores read as one: the rows of all, each from its own store, checked and named where it is damaged."""

from __future__ import annotations

import os
import pickle
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.files.damage import flip
from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.processes.forked import in_own_process
from tests.support.several import cut, names, write_sources
from tests.support.stores import DIM, layers, write_coded_store, write_store
from usjepa.cache import Store, open_store, open_stores
from usjepa.cache.coding.form import Form
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import DamageError, HoleError, UsageError
from usjepa.cache.reading.batch_memory import BatchMemory

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two stores, of 10 and 7 rows, that hold nothing of each other."""
    write_sources(tmp_path / "a.zarr", names("a", 10), seed=1)
    write_sources(tmp_path / "b.zarr", names("b", 7), seed=2, described=layers(rows_per_shard=8))
    return [tmp_path / "a.zarr", tmp_path / "b.zarr"]


def same(one: Batch, other: Batch) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays
    )


@pytest.mark.parametrize("at", [3, 8, 13], ids=["within a shard", "between shards", "near the end"])
def test_parts_of_a_store_are_numbered_described_and_read_as_the_whole(tmp_path: Path, at: int) -> None:
    write_store(tmp_path / "s", 16)
    whole = open_store(tmp_path / "s")
    parts = open_stores(cut(tmp_path / "s", tmp_path, at, 16))
    assert np.array_equal(parts.rows, whole.rows)
    assert parts.table.sources == whole.table.sources
    for column in ("source", "frame", "view", "dataset", "group", "label", "split"):
        assert np.array_equal(getattr(parts.table, column), getattr(whole.table, column)), column
    rows = np.random.default_rng(0).permutation(np.r_[whole.rows, whole.rows])
    assert same(parts.read(rows), whole.read(rows))
    assert [parts.origin_of(row) for row in range(16)] == [whole.origin_of(row) for row in range(16)]


def test_the_parts_of_one_source_are_one_source_again(tmp_path: Path) -> None:
    write_sources(tmp_path / "s", names("a", 6), views=3)
    whole, parts = open_store(tmp_path / "s"), open_stores(cut(tmp_path / "s", tmp_path, 7, 18))
    assert len(parts.parts[0].table.sources) + len(parts.parts[1].table.sources) == 7
    assert parts.table.sources == whole.table.sources
    assert np.array_equal(parts.table.source, whole.table.source)
    assert not len(parts.joined.repeated)


def test_rows_are_numbered_behind_holes_and_the_end_of_the_store_before(tmp_path: Path) -> None:
    write_store(tmp_path / "a", 10, holes=((3, "cut"), (9, "cut")))
    write_sources(tmp_path / "b", names("b", 3))
    both = open_stores([tmp_path / "a", tmp_path / "b"])
    assert both.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]
    assert [both.place_of(row)[1] for row in (8, 10, 12)] == [8, 0, 2]
    with pytest.raises(HoleError, match=r"a: row 3 holds no data: cut"):
        both.read([0, 3, 11])


@pytest.mark.parametrize("row", [-1, 17, 2**40])
def test_a_number_that_no_store_has_is_refused(pair: list[Path], row: int) -> None:
    with pytest.raises(HoleError, match="holds no data"):
        open_stores(pair).read([0, row])


def test_memory_that_is_given_is_filled_and_an_empty_batch_is_empty(pair: list[Path]) -> None:
    both, memory = open_stores(pair), BatchMemory()
    rows = [16, 0, 9, 10, 3]
    out = memory.arrays(both.layers, 12)
    read = both.read(rows, out=out)
    assert same(read, both.read(rows))
    assert all(np.shares_memory(read.arrays[name], out[name]) for name in read.arrays)
    assert len(both.read([]).pixels) == 0


def test_int8_latents_are_scaled_by_the_calibration_of_the_store_that_holds_them(tmp_path: Path) -> None:
    for letter, factor in (("a", 1.0), ("b", 3.0)):
        described = layers(precision="int8")
        scale = tuple(factor * (0.5 + i) for i in range(DIM))
        described["latents/toy"] = replace(described["latents/toy"], channel_scale=scale)
        write_sources(tmp_path / letter, names(letter, 6), described=described, seed=ord(letter))
    both = open_stores([tmp_path / "a", tmp_path / "b"])
    rows = [11, 0, 6, 5, 0]
    one, two = both.parts
    expected = np.stack([(one.read([row]) if row < 6 else two.read([row - 6])).targets().numpy()[0] for row in rows])
    read = both.read(rows)
    assert np.array_equal(read.targets().numpy(), expected)
    assert np.array_equal(read.targets_of("toy", one.layers["latents/toy"].channel_scale).numpy(), expected)
    alike = open_stores(cut(tmp_path / "a", tmp_path, 2, 6))
    assert not alike.read([0, 5]).row_scales


@pytest.mark.parametrize("form", [Form("int4"), Form("int8", 20)], ids=str)
def test_latents_on_axes_or_in_int4_are_read_with_what_each_store_found(tmp_path: Path, form: Form) -> None:
    for letter, seed in (("a", 1), ("b", 2)):
        write_coded_store(tmp_path / letter, 6, form, seed)
    both = open_stores([tmp_path / "a", tmp_path / "b"])
    one, two = both.parts
    assert one.layers["latents/toy"].coding != two.layers["latents/toy"].coding
    rows = [9, 0, 4, 8, 0]
    expected = np.stack([(one.read([row]) if row < 6 else two.read([row - 6])).targets().numpy()[0] for row in rows])
    read = both.read(rows)
    np.testing.assert_array_equal(read.targets().numpy(), expected)
    assert both.read([]).targets().shape == (0, 9, 24)
    halves = open_stores(cut(tmp_path / "a", tmp_path, 4, 6))
    assert not halves.read([0, 5]).by_store
    np.testing.assert_array_equal(halves.read([0, 5]).targets().numpy(), one.read([0, 5]).targets().numpy())


def test_a_damaged_row_is_named_by_its_store_and_its_number_there(pair: list[Path]) -> None:
    flip(pair[1] / "latents/toy/c.0.0.0", 70)
    both = open_stores(pair)
    assert len(both.read(range(10)).pixels) == 10
    with pytest.raises(DamageError) as caught:
        both.read([2, 10, 11, 12])
    error = caught.value
    assert f"{pair[1]}/latents/toy/c.0.0.0" in str(error)
    assert error.row is not None
    assert f"row {error.row} " in str(error)
    assert f"it is row {10 + error.row}." in str(error)
    assert f"It shows b{error.row:02d}.png" in str(error)


def test_they_are_pickled_and_read_by_threads_at_once(pair: list[Path]) -> None:
    both = open_stores(pair)
    expected = both.read(both.rows)
    again = pickle.loads(pickle.dumps(both))
    assert again.digest == both.digest
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(same(again.read(again.rows), expected))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


@in_own_process
def test_a_forked_child_reads_on(pair: list[Path]) -> None:
    both = open_stores(pair)
    expected = both.read(both.rows)
    child = os.fork()
    if not child:
        os._exit(0 if same(both.read(both.rows), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    both.close()
    assert same(both.read(both.rows), expected)


def test_stores_that_make_one_wait_are_read_at_once(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    both, all_there, real = open_stores(pair), threading.Barrier(2), Store.read_into
    expected = both.read(range(17))

    def read_into(store: Store, *args: Any) -> None:
        all_there.wait(30)  # one after the other never are
        real(store, *args)

    monkeypatch.setattr(both, "_waits", [False, True])
    monkeypatch.setattr(Store, "read_into", read_into)
    assert same(both.read(range(17)), expected)


def test_the_size_of_a_pixel_is_that_of_each_rows_store(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    both = open_stores(pair)
    for part, size in zip(both.parts, (0.25, 0.5), strict=True):
        monkeypatch.setitem(vars(part), "spacing", np.full((len(part), 2), size))
    assert both.spacing[:, 0].tolist() == [0.25] * 10 + [0.5] * 7
    assert both.spacing_of([16, 0, 10])[:, 1].tolist() == [0.5, 0.25, 0.5]
    with pytest.raises(HoleError):
        both.spacing_of([0, 17])


def test_buckets_and_folders_are_read_as_one(pair: list[Path]) -> None:
    expected = open_stores(pair).read(range(17))
    with s3_behind_proxy("several"):
        for store in pair:
            copy_store(str(store), f"s3://several/{store.name}")
        for first in (pair[0], "s3://several/a.zarr"):
            both = open_stores([first, "s3://several/b.zarr"])
            assert both.names == ("a.zarr", "b.zarr")
            for _ in range(2):  # the second time with the ends of shards known
                assert same(both.read(range(17)), expected)
            both.close()


def test_a_store_given_twice_and_a_copy_of_it_are_refused(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.zarr: given twice"):
        open_stores([pair[0], pair[1], pair[0]])
    with pytest.raises(UsageError, match=r"given twice"):
        open_stores([pair[0], f"file://{pair[0]}"])
    copy_store(str(pair[0]), str(tmp_path / "copy.zarr"))
    with pytest.raises(UsageError, match=r"copy\.zarr: holds the very rows of .*a\.zarr"):
        open_stores([pair[0], tmp_path / "copy.zarr"])


def test_what_is_no_list_of_stores_is_refused(pair: list[Path]) -> None:
    with pytest.raises(UsageError, match="call open_store"):
        open_stores(str(pair[0]))
    with pytest.raises(UsageError, match="no store was given"):
        open_stores([])
    with pytest.raises(UsageError, match="1 for 2 stores"):
        open_stores(pair, generations=[1])
    with pytest.raises(UsageError, match="no layer 'latents/none'"):
        open_stores(pair, ["pixels", "latents/none"])


def test_digests_depend_on_every_store_and_on_their_order(pair: list[Path], tmp_path: Path) -> None:
    write_sources(tmp_path / "c.zarr", names("c", 7), seed=3)
    sets = [pair, pair[::-1], [pair[0], tmp_path / "c.zarr"], pair[:1], [*pair, tmp_path / "c.zarr"]]
    for digests in ([open_stores(one).digest for one in sets], [open_stores(one).content_digest() for one in sets]):
        assert len(set(digests)) == len(sets)
    assert open_stores(pair).digest == open_stores(pair).digest


def test_one_store_in_a_list_reads_as_it_does_alone(pair: list[Path]) -> None:
    alone, listed = open_store(pair[0]), open_stores(pair[:1])
    assert np.array_equal(alone.rows, listed.rows)
    assert same(alone.read(alone.rows), listed.read(listed.rows))


def test_rows_lie_in_the_stores_that_hold_them(pair: list[Path]) -> None:
    both = open_stores(pair)
    rows: NDArray[np.int64] = np.array([0, 9, 10, 16])
    assert both.part_of(rows).tolist() == [0, 0, 1, 1]
    assert len(both) == 17
    assert repr(both) == "<Stores a.zarr, b.zarr: 17 rows, latents/toy, pixels, regions>"
