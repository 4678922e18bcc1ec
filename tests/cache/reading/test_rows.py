"""Rows that a store gives back: whichever batch, threads and moment, the right bytes or an error that names the row."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.files.damage import flip
from tests.support.processes.commands import run_python
from tests.support.stores import open_below, write_store
from usjepa.cache.errors import DamageError, HoleError
from usjepa.cache.reading import batch_reader, open_shards
from usjepa.cache.reading.layer_reader import ReadPlan
from usjepa.cache.reading.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("check_rows", [True, False])
def test_a_hole_of_which_the_manifest_knows_nothing_is_no_data_even_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_rows: bool
) -> None:
    """preadv takes a hole's offset of -1 for "from where the file stands" and would give another row."""
    write_store(tmp_path / "s", 10, holes=((3, "a/0003.png: torn"),))
    store = open_store(tmp_path / "s", check_rows=check_rows)
    monkeypatch.setattr(Store, "_check_numbers", lambda *_: None)
    store.read([1, 5])
    for _ in range(2):
        with pytest.raises(HoleError, match="row 3 holds no data"):
            store.read([1, 3])


@pytest.mark.parametrize("most", [1, 7, 100])
def test_reads_cut_short_anywhere_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    content = write_store(tmp_path / "s", 8)
    real = os.preadv

    def short(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        return real(handle, [buffers[0][:most]], offset, flags)

    monkeypatch.setattr(os, "preadv", short)
    got = open_store(tmp_path / "s").read([1, 2, 3, 6], layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"][[1, 2, 3, 6]])


def test_without_row_checks_only_the_checksums_of_rows_are_left_out(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 8)
    store = open_store(tmp_path / "s", check_rows=False)
    np.testing.assert_array_equal(store.read([7, 0]).latents, content["latents/toy"][[7, 0]])
    flip(tmp_path / "s" / "latents/toy/c.1.0.0", -1)  # the index
    store.close()
    with pytest.raises(DamageError, match="crc32c of its index"):
        open_store(tmp_path / "s", check_rows=False).read([5])


@pytest.mark.parametrize("piece_nbytes", [1 << 19, 1], ids=["many rows per piece", "one row per piece"])
@pytest.mark.parametrize("shared_nbytes", [0, 1 << 20], ids=["shared out", "small batches in one thread"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_batch_is_read_right_whatever_the_rows_sizes_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_nbytes: int, shared_nbytes: int, threads: int
) -> None:
    monkeypatch.setattr(batch_reader, "_PIECE_NBYTES", piece_nbytes)
    monkeypatch.setattr(batch_reader, "_SHARED_NBYTES", shared_nbytes)
    content = write_store(tmp_path / "s", 61, rows_per_shard=7)
    store, rng = open_store(tmp_path / "s", threads=threads), np.random.default_rng(threads)
    for size in (0, 1, 2, 8, 9, 61, 200):
        rows = rng.integers(0, 61, size)
        batch = store.read(rows)
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array, content[name][rows])


def test_a_row_changed_under_an_open_store_is_named_and_read_again_once_it_is_mended(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s")
    store.read(range(24))
    path = tmp_path / "s/latents/toy/c.1.0.0"
    at = store.layers["latents/toy"].layout.slot_nbytes * 3 + 5
    flip(path, at)
    for _ in range(2):
        with pytest.raises(DamageError, match=r"row 11 is not what was built.* It shows "):
            store.read(range(24))
    flip(path, at)
    np.testing.assert_array_equal(store.read(range(24)).latents, content["latents/toy"])


@pytest.mark.parametrize("row", [-1, 10, 11, 12, 2**40, -(2**63)])
@pytest.mark.parametrize("check_rows", [True, False])
def test_a_number_that_is_no_rows_is_refused_before_anything_is_read(
    tmp_path: Path, row: int, check_rows: bool
) -> None:
    write_store(tmp_path / "s", 10)
    store = open_store(tmp_path / "s", check_rows=check_rows)
    for _ in range(2):
        with pytest.raises(HoleError, match=f"row {row} holds no data; `rows` lists the 10 that do"):
            store.read([3, row, 4])
        store.read(range(10))


@pytest.mark.parametrize("check_rows", [True, False])
def test_rows_are_right_while_files_come_and_go_under_the_threads_that_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_rows: bool
) -> None:
    """Unchecked, too: a descriptor closed too early and given to another file would show other rows."""
    content = write_store(tmp_path / "s", 120, rows_per_shard=3)
    monkeypatch.setattr(open_shards, "most_open", lambda: 9)
    monkeypatch.setattr(open_shards, "_sharing", open_shards._Sharing())  # stores of other tests may still be there
    store = open_store(tmp_path / "s", threads=3, check_rows=check_rows)
    over, failed = threading.Event(), []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(150):
                rows = rng.integers(0, 120, 16)
                for name, array in store.read(rows).arrays.items():
                    np.testing.assert_array_equal(array, content[name][rows])
        except BaseException as error:
            failed.append(error)
            raise

    def drop() -> None:
        rng = np.random.default_rng(9)
        while not over.wait(0.001):
            for reader in store._reader.get()._readers.values():
                reader.open_shards.drop(int(rng.integers(0, 40)))

    dropping = threading.Thread(target=drop)
    reading = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in (dropping, *reading):
        thread.start()
    for thread in reading:
        thread.join()
    over.set()
    dropping.join()
    assert not failed
    assert len(open_below(tmp_path)) <= 9 + 3  # and a folder per layer
    store.close()


_INTERRUPTED = """
import os, random, signal, sys
import numpy as np
from usjepa.cache.reading import open_shards
from usjepa.cache.reading.store import open_store
open_shards.most_open = lambda: 12
class Stop(Exception): pass
armed = False
def stop(*_):
    global armed
    if armed:
        armed = False
        raise Stop
signal.signal(signal.SIGALRM, stop)
store, rng, stopped, done, most = open_store(sys.argv[1], threads=3), np.random.default_rng(0), 0, 0, 1e-3
whole = store.read(range(120)).arrays
while stopped < int(sys.argv[2]):
    rows = rng.integers(0, 120, 24)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, most))
        got = store.read(rows).arrays
        armed = False
    except Stop:
        stopped, most = stopped + 1, 1.1 * most  # so that about half are read whole, on a machine however busy
    else:
        done, most = done + 1, most / 1.1
        assert all((got[name] == whole[name][rows]).all() for name in whole)
print("right after", stopped, "interruptions", done > 0)
"""


@pytest.mark.parametrize("times", [300, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1300)])])
def test_reading_goes_on_rightly_after_it_was_interrupted_at_any_moment(tmp_path: Path, times: int) -> None:
    """Ctrl-C in a notebook, and read again: nothing is locked for ever, no memory of a batch is written by another."""
    write_store(tmp_path / "s", 120, rows_per_shard=3)
    done = run_python("-c", _INTERRUPTED, tmp_path / "s", times, code=None, limit_s=240 if times < 1000 else 1200)
    assert done.stdout == f"right after {times} interruptions True\n", done.stderr


def test_damage_in_one_thread_stops_the_others_and_names_its_row(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 400, rows_per_shard=100)
    store = open_store(tmp_path / "s", threads=3)
    path = tmp_path / "s/latents/toy/c.2.0.0"
    flip(path, store.layers["latents/toy"].layout.slot_nbytes * 50)
    for _ in range(5):
        with pytest.raises(DamageError, match="row 250 is not what was built"):
            store.read(np.random.default_rng(0).permutation(400))


def test_a_plan_names_shard_slot_and_place_of_every_row_and_is_cut_where_a_shard_ends() -> None:
    rows = np.array([41, 3, 40, 3, 8, 19, 0])
    plan = ReadPlan.of(rows, 8)
    assert plan.shards == [0, 1, 2, 5]
    for part in (plan, *plan.parts(1), *plan.parts(3)):
        for nth, slot, row, place in zip(part.nth, part.slots, part.rows, part.places, strict=True):
            assert part.shards[nth] * 8 + slot == row == rows[place]
        assert part.rows == sorted(part.rows)
    for most, shards in ((1, [[0], [1], [2], [5]]), (3, [[0, 1, 2], [5]]), (4, [[0, 1, 2, 5]])):
        parts = plan.parts(most)
        assert [part.shards for part in parts] == shards
        assert sorted(place for part in parts for place in part.places) == list(range(7))
