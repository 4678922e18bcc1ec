"""How often a storage is asked: what is committed, a batch, stored pixels, a repair, a copy, an opening."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.files.counting import CountingStorage
from tests.support.files.damage import flip
from tests.support.processes.commands import LIMIT_S
from tests.support.stores import arrays, layers, tables, write_store
from usjepa.cache.building.committed_rows import CommittedRows
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import DamageError, HoleError, StoreError
from usjepa.cache.reading.batch_reader import BatchReader
from usjepa.cache.reading.layer_reader import ReadPlan
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage import waiting
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.protocol import Found
from usjepa.cache.storage.waiting import together
from usjepa.cache.store.commits import committed_layers
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.storage.protocol import Piece, Storage, Take

ROWS, PER_SHARD, SHARDS = 100, 4, 25


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "s"
    write_store(root, ROWS, rows_per_shard=PER_SHARD)
    return root


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "s")
    return tmp_path / "s"


def counted(path: Path) -> CountingStorage:
    return CountingStorage(LocalStorage(path))


def reader_of(storage: Storage, path: Path) -> BatchReader:
    manifest = open_store(path).manifest
    described = [(layer, manifest.tables[name]) for name, layer in manifest.layers.items()]
    return BatchReader(storage, described, threads=2)


def read(reader: BatchReader, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    found = {name: np.zeros((len(rows), *layer.shape), layer.dtype) for name, layer in layers(PER_SHARD).items()}
    reader.read(ReadPlan.of(rows, PER_SHARD), found)
    return found


def test_what_is_committed_is_one_listing_a_layer_and_two_reads_a_shard_all_under_way_at_once(store: Path) -> None:
    storage = counted(store)
    found = committed_layers(storage, list(layers(PER_SHARD).values()))
    assert {name: list(commits) for name, commits in found.items()} == {key: list(range(SHARDS)) for key in layers()}
    assert storage.requests == Counter(list=3, read=2 * 3 * SHARDS)
    assert storage.waits <= 3


def test_a_writer_asks_for_no_record_twice_and_none_that_it_wrote(store: Path) -> None:
    storage = counted(store)
    writer = StoreWriter(storage)
    writer.attach()
    described = list(writer.state.layers.values())
    writer.committed(described[:1])
    storage.reset()
    writer.committed(described)
    assert storage.requests == Counter(list=3, read=2 * 2 * SHARDS)
    writer.add_segment(*tables(PER_SHARD, "b"), PER_SHARD)
    for layer in described:
        writer.write_shard(layer, SHARDS, arrays(layer, PER_SHARD), [], {})
    storage.reset()
    writer.seal()
    assert storage.requests == Counter(list=3, write=2)


def test_a_record_that_is_gone_is_missed_though_the_writer_knew_it(store: Path) -> None:
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    described = list(writer.state.layers.values())
    writer.committed(described)
    (store / "commits/pixels/000003.json").unlink()
    assert sorted(set(range(SHARDS)) - set(writer.committed(described)["pixels"])) == [3]


@pytest.mark.parametrize("broken", ["pixels/c.2.0.0.0", "commits/pixels/000002.json"])
def test_of_many_shards_the_damaged_one_is_not_committed(store: Path, broken: str) -> None:
    flip(store / broken, -1 if broken.startswith("pixels") else 20)
    found = committed_layers(LocalStorage(store), list(layers(PER_SHARD).values()))
    assert set(range(SHARDS)) - set(found["pixels"]) == {2}
    assert len(found["regions"]) == SHARDS


def test_a_random_batch_waits_once_for_all_its_rows_the_first_one_too(store: Path) -> None:
    storage, content = counted(store), {name: arrays(layer, ROWS) for name, layer in layers(PER_SHARD).items()}
    reader, rng = reader_of(storage, store), np.random.default_rng(0)
    for _ in range(4):
        rows = rng.permutation(ROWS)[:64]
        shards = len(np.unique(rows // PER_SHARD))
        storage.reset()
        for name, array in read(reader, rows).items():
            np.testing.assert_array_equal(array, content[name][rows])
        assert storage.waits == 1
        assert storage.requests["read"] <= 3 * shards
    storage.reset()
    read(reader, np.arange(64))
    assert (storage.waits, storage.requests["read"]) == (1, 3 * 16)


@pytest.mark.parametrize("near", [0, 1 << 18])
@pytest.mark.parametrize("known", [False, True])
def test_where_rows_lie_is_guessed_from_the_holes_that_are_known_and_never_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, near: int
) -> None:
    monkeypatch.setattr("usjepa.cache.reading.remote._NEAR_NBYTES", near)
    write_store(tmp_path / "s", 50, rows_per_shard=8, holes=((3, "torn"), (9, "torn"), (10, "torn")))
    manifest = open_store(tmp_path / "s").manifest
    described = [(layer, manifest.tables[name]) for name, layer in manifest.layers.items()]
    storage, rows = counted(tmp_path / "s"), np.array([49, 2, 4, 15, 8, 24, 4, 7])
    reader = BatchReader(storage, described, 2, True, *([manifest.rows()] if known else []))
    content = {name: np.zeros((len(rows), *layer.shape), layer.dtype) for name, layer in layers(8).items()}
    reader.read(ReadPlan.of(rows, 8), content)
    for name, layer in layers(8).items():
        np.testing.assert_array_equal(content[name], arrays(layer, 50)[rows])
    assert storage.waits == (1 if known else 2)


def test_a_row_that_comes_before_the_end_of_its_shard_waits_for_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards(CountingStorage):
        def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
            found: dict[int, Found | None] = {}
            super().read_many(pieces, found.__setitem__)
            for number in reversed(range(len(pieces))):
                take(number, found[number])

    monkeypatch.setattr("usjepa.cache.reading.remote._NEAR_NBYTES", -(1 << 20))
    storage = Backwards(LocalStorage(store))
    np.testing.assert_array_equal(
        read(reader_of(storage, store), np.array([7, 90]))["pixels"], open_store(store).read([7, 90]).pixels
    )
    assert (storage.waits, storage.requests["read"]) == (1, 3 * 2 * 2)


def test_stored_pixels_are_read_by_runs(store: Path) -> None:
    storage = counted(store)
    layer = layers(PER_SHARD)["pixels"]
    commits = committed_layers(storage, [layer])["pixels"]
    reader = CommittedRows(storage, [(layer, commits)])
    storage.reset()
    (pixels,) = reader.read(range(16, 80))
    np.testing.assert_array_equal(pixels, open_store(store).read(range(16, 80)).pixels)
    assert (storage.waits, storage.requests) == (1, Counter(read=16))


def test_a_long_run_is_asked_for_in_pieces_that_are_under_way_together(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usjepa.cache.reading.remote._PIECE_NBYTES", 2 * 320)
    storage = counted(store)
    reader = reader_of(storage, store)
    array = np.zeros((PER_SHARD, 1, 16, 16), np.uint8)
    reader.read(ReadPlan.of(np.arange(PER_SHARD), PER_SHARD), {"pixels": array})
    np.testing.assert_array_equal(array, open_store(store).read(range(PER_SHARD)).pixels)
    assert storage.names_read["pixels/c.0.0.0.0"] == 1 + 2


def test_a_damaged_row_and_a_missing_shard_are_named_and_the_others_are_not(store: Path) -> None:
    flip(store / "pixels/c.3.0.0.0", 320 + 5)
    with pytest.raises(DamageError, match="row 13 is not what was built") as damaged:
        read(reader_of(counted(store), store), np.array([40, 13, 12]))
    assert (damaged.value.layer, damaged.value.shard, damaged.value.row) == ("pixels", 3, 13)
    (store / "latents/toy/c.9.0.0").unlink()
    with pytest.raises(DamageError, match="missing; row 37 needs it"):
        read(reader_of(counted(store), store), np.array([40, 37]))
    read(reader_of(counted(store), store), np.array([40, 12, 41]))


def test_a_row_that_comes_wrong_once_is_asked_for_again(store: Path) -> None:
    class Flaky(CountingStorage):
        def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
            def spoilt(number: int, found: Found | None) -> None:
                if found is not None:  # the first byte, of a row
                    found = Found([bytes([part[0] ^ 1]) + part[1:] for part in found.parts], found.size)
                take(number, found)

            super().read_many(pieces, spoilt)

    found = read(reader_of(Flaky(LocalStorage(store)), store), np.array([7, 90]))
    np.testing.assert_array_equal(found["pixels"], open_store(store).read([7, 90]).pixels)


def test_a_hole_of_which_only_the_shard_knows_is_no_data(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 8, holes=((3, "torn"),))
    reader = reader_of(counted(tmp_path / "s"), tmp_path / "s")
    read(reader, np.array([1, 2]))
    with pytest.raises(HoleError, match="row 3 holds no data"):
        read(reader, np.array([1, 3]))


def test_opening_asks_once_for_everything_and_lists_no_more_than_what_is_unfinished(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = counted(store)
    monkeypatch.setattr("usjepa.cache.reading.store.open_storage", lambda _: storage)
    open_store(str(store))
    assert storage.requests == Counter(list=1, read=2 + 3)
    assert max(storage.names_read.values()) == 1


def test_a_copy_asks_for_each_record_once_and_a_second_one_copies_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = counted(store), counted(store.parent / "t")
    places = {"there": there, "here": here}
    monkeypatch.setattr("usjepa.cache.copying.copy.open_storage", lambda name: places[name])
    monkeypatch.setattr("usjepa.cache.copying.copy.open_store", lambda _: open_store(store))
    copy_store("there", "here")
    assert {name: n for name, n in there.names_read.items() if name.startswith("commits")} == {
        f"commits/{layer}/{shard:06d}.json": 1 for layer in layers() for shard in range(SHARDS)
    }
    assert there.requests["size"] == 1  # at the end: whether a removal was begun meanwhile
    assert here.requests["read"] < 3 * 2 * SHARDS * 2


class _Call:
    """A call that waits until it may end: where several may be under way, until another is."""

    def __init__(self, alone: bool) -> None:
        self.begun, self.most, self.running = 0, 0, 0
        self.lock, self.partner = threading.Lock(), threading.Barrier(1 if alone else 2)

    def make(self, number: int) -> int:
        with self.lock:
            self.begun, self.running = self.begun + 1, self.running + 1
            self.most = max(self.most, self.running)
        self.partner.wait(LIMIT_S)
        time.sleep(0.002)
        with self.lock:
            self.running -= 1
        return number


def test_many_calls_are_under_way_at_once_but_bring_no_more_than_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_AT_ONCE_NBYTES", 100)
    for nbytes, most in ((1, 100), (30, 3), (1000, 1)):
        call, found = _Call(alone=most == 1), dict[int, int]()
        together(((nbytes, partial(call.make, number)) for number in range(50)), found.__setitem__)
        assert found == {number: number for number in range(50)}
        assert (1 if most == 1 else 2) <= call.most <= most


def test_what_the_first_call_that_fails_raises_is_raised_and_the_others_are_not_begun() -> None:
    begun = itertools.count()

    def calls() -> Iterator[tuple[int, Callable[[], int]]]:
        def fail(number: int) -> int:
            next(begun)
            raise StoreError(f"call {number}")

        yield from ((1 << 30, partial(fail, number)) for number in range(100))

    with pytest.raises(StoreError, match="call 0"):
        together(calls(), lambda *_: None)
    assert next(begun) == 1
