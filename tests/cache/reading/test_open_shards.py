"""Open shards: a bounded number of files, shared among stores, closed neither too early nor never."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes.commands import run_python
from tests.support.stores import open_below, write_store
from usjepa.cache.reading import layer_reader, open_shards
from usjepa.cache.reading.layer_reader import LayerRows, ReadPlan
from usjepa.cache.reading.local import LocalReader
from usjepa.cache.reading.open_shards import MOST_OPEN, OpenShard, OpenShards, most_open
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.shard import Trailer, parse_trailer

if TYPE_CHECKING:
    from pathlib import Path


def test_indexes_are_read_when_a_row_of_their_shard_is_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 40)
    parsed = []
    real = parse_trailer
    monkeypatch.setattr(layer_reader, "parse_trailer", lambda *args: parsed.append(args[-1]) or real(*args))
    store = open_store(tmp_path / "s")
    assert parsed == []
    store.read([9], layers=["pixels"])
    store.read([8, 10], layers=["pixels"])
    assert len(parsed) == 1
    assert "c.2.0.0.0" in parsed[0]


_FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.reading.store import Store, open_store
stores = [open_store(sys.argv[1], threads=4) for _ in range(2)]
rows = np.random.default_rng(0).permutation(stores[0].rows)
for start in range(0, len(rows), 100):
    for store in stores:
        batch = store.read(rows[start : start + 50])
        assert (batch.pixels[:, 0, 0, 0] >= 0).all()
print("read", len(rows))
"""


@pytest.mark.parametrize(
    "shards", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["300 shards", "10,000 shards"]
)
def test_two_open_stores_of_many_shards_are_read_within_256_descriptors(
    tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here is about durability
    write_store(tmp_path / "s", shards, rows_per_shard=1)
    done = run_python("-c", _FEW_FILES, tmp_path / "s", code=None)
    assert done.stdout == f"read {shards}\n", done.stderr


def test_idle_files_leave_a_quarter_of_the_descriptors_and_at_least_128(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    for allowed, wanted in (
        (64, 1),
        (256, 128),
        (1024, 768),
        (20_000, 15_000),
        (10**6, MOST_OPEN),
        (endless, MOST_OPEN),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=allowed: (soft, soft))
        assert most_open() == wanted


_SHARED = """
import gc, os, resource, sys
from usjepa.cache.reading.store import open_store
resource.setrlimit(resource.RLIMIT_NOFILE, (248, 248))
def count():
    return len(os.listdir("/proc/self/fd"))
def grew(act, before=count()):
    act()
    return count() - before
def read(store):
    for row in range(150):
        store.read([row])
def child(act):
    inward, outward = os.pipe()
    if not os.fork():
        os.write(outward, b"%d" % grew(act))
        os._exit(0)
    os.wait()
    return int(os.read(inward, 9))
stores = [open_store(sys.argv[1]) for _ in range(4)]
print("one", grew(lambda: read(stores[0])))
print("four", grew(lambda: [read(store) for store in stores]))
print("child, idle", child(lambda: None))
print("child, reading", child(lambda: read(stores[0])))
del stores[1:]
gc.collect()
print("one again", grew(lambda: read(stores[0])))
"""


@pytest.mark.slow
def test_open_stores_share_what_a_process_may_have_and_a_forked_child_begins_with_none(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 150, rows_per_shard=1)
    done = run_python("-W", "ignore", "-c", _SHARED, tmp_path / "s", code=None)
    found = {name: int(count) for name, count in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}
    assert list(found) == ["one", "four", "child, idle", "child, reading", "one again"], done.stderr
    folders = 3  # one per layer and store stays open
    for name in ("one", "one again", "child, reading"):  # 40 per layer, of which an eighth is closed at a time
        assert 3 * 35 <= found[name] <= 120 + folders + 4, (name, found)  # the child's pipe and its parent's
    assert found["four"] <= 120 + 4 * folders, found
    assert found["child, idle"] <= 4, found


def _reader(root: Path) -> LocalReader:
    store = open_store(root)
    return LocalReader(LocalStorage(root), store.layers["pixels"], store.manifest.tables["pixels"])


def _open(reader: LocalReader, shard: int) -> OpenShard:
    return reader.finish_opening(shard, reader.begin_opening(shard))


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def test_layers_share_the_descriptors_equally_and_the_shards_used_last_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "most_open", lambda: 48)
    monkeypatch.setattr(open_shards, "_sharing", open_shards._Sharing())
    write_store(tmp_path / "s", 40, rows_per_shard=1)
    one, two = _reader(tmp_path / "s"), _reader(tmp_path / "s")
    for shard in range(40):
        _open(one, shard)
    assert (one.open_shards.most, len(one.open_shards)) == (48, 40)
    one.open_shards.pinned([3, 5])
    _open(two, 0)
    assert (one.open_shards.most, two.open_shards.most) == (24, 24)
    assert len(one.open_shards) <= 24
    assert [shard is not None for shard in one.open_shards.pinned([3, 5, 39, 0, 1])] == [True, True, True, False, False]
    del two
    _open(one, 1)
    assert one.open_shards.most == 48


def test_what_a_layer_of_few_shards_does_not_need_is_left_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "most_open", lambda: 48)
    monkeypatch.setattr(open_shards, "_sharing", open_shards._Sharing())
    readers = []
    for shards in (40, 10, 1, 30):
        write_store(tmp_path / str(shards), shards, rows_per_shard=1)
        readers.append(_reader(tmp_path / str(shards)))
    most: list[int] = []
    for reader in readers:
        _open(reader, 0)
        most.append(readers[0].open_shards.most)
    assert most == [48, 38, 37, 18]  # of which the layers of 10 shards and of one take no more than they have
    for reader in readers:
        for shard in range(len(reader._tables)):
            _open(reader, shard)
    held = [len(reader.open_shards) for reader in readers]
    assert sum(held) <= 48
    assert held[1:3] == [10, 1]
    assert min(held[0], held[3]) > 48 // 4  # more than an equal part each


def test_row_hashes_of_open_shards_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "_HASHES_NBYTES", 1000)
    held = OpenShards(shard_rows=25, on_disk=False, shards=40)  # five of 200 bytes
    trailer = Trailer(np.zeros(25, np.int64), np.zeros(25, np.uint64))
    for shard in range(20):
        opened = OpenShard(-1, 100)
        opened.describe(trailer)
        held.add(shard, opened)
        held.pinned([0, shard])
        assert len(held) <= 5
    assert held.pinned([0, 19]) != [None, None]
    assert held.pinned([0])[0] is not None


def test_a_shard_that_was_dropped_stays_open_while_a_batch_pins_it_and_no_longer(tmp_path: Path) -> None:
    content = write_store(tmp_path / "s", 8)
    reader = _reader(tmp_path / "s")
    _open(reader, 0)
    out = np.zeros((2, *reader.layer.shape), np.uint8)
    rows = LayerRows(reader, ReadPlan.of(np.array([2, 0]), 4), out)
    rows.waits = True  # dropping a shard drops its bytes from memory too
    (pinned,) = rows.shards
    assert pinned is not None
    number = pinned.number
    reader.open_shards.drop(0)
    reader.open_shards.close()
    assert reader.open_shards.pinned([0]) == [None]
    assert reader.read(rows, 0, 2, lambda: None) == []
    np.testing.assert_array_equal(out, content["pixels"][[2, 0]])
    del pinned, rows
    reader.open_shards.close()
    assert not _is_open(number)


def test_a_shard_that_is_dropped_while_the_last_batch_ends_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 8)
    reader = _reader(tmp_path / "s")
    number, advised = _open(reader, 0).number, list[int]()

    def end_a_batch(file: int, *_: int) -> None:
        advised.append(file)
        reader.open_shards.close_unused()

    monkeypatch.setattr(os, "posix_fadvise", end_a_batch)
    reader.open_shards.drop(0)
    assert advised == [number]
    assert not _is_open(number)


def test_a_folder_that_was_replaced_is_found_again_when_a_shard_is_dropped(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4, seed=1)
    reader = _reader(tmp_path / "s")
    before = _open(reader, 0)
    (tmp_path / "s/pixels").rename(tmp_path / "gone")
    (tmp_path / "s/pixels").mkdir()
    new = (tmp_path / "gone/c.0.0.0.0").read_bytes()
    (tmp_path / "s/pixels/c.0.0.0.0").write_bytes(new)
    reader.open_shards.drop(0)
    again = _open(reader, 0)
    assert os.fstat(again.number).st_ino == (tmp_path / "s/pixels/c.0.0.0.0").stat().st_ino
    assert os.fstat(before.number).st_ino != os.fstat(again.number).st_ino


def test_threads_that_open_the_same_shard_at_once_share_one_descriptor(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    reader, both = _reader(tmp_path / "s"), threading.Barrier(2)
    opened, found = list[int](), list[OpenShard]()

    def open_together() -> None:
        shard = reader.begin_opening(0)
        opened.append(shard.number)
        both.wait(timeout=120)  # neither is known yet when the other one opens it
        found.append(reader.finish_opening(0, shard))

    threads = [threading.Thread(target=open_together) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
    reader.open_shards.close_unused()
    assert sorted(_is_open(handle) for handle in opened) == [False, True]


def test_a_batch_of_more_shards_than_may_stay_open_keeps_within_its_part_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "most_open", lambda: 24)
    monkeypatch.setattr(open_shards, "_sharing", open_shards._Sharing())
    content = write_store(tmp_path / "s", 60, rows_per_shard=1)
    store, most, real = open_store(tmp_path / "s", threads=2), 0, os.preadv

    def counted(*arguments: object) -> int:
        nonlocal most
        most = max(most, len(open_below(tmp_path)))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", counted)
    rows = np.random.default_rng(0).permutation(60)
    for name, array in store.read(rows).arrays.items():
        np.testing.assert_array_equal(array, content[name][rows])
    assert 8 <= most <= 24 + 3  # and a folder per layer


def test_what_others_let_go_of_while_a_batch_pinned_it_is_closed_when_the_batch_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "most_open", lambda: 9)
    monkeypatch.setattr(open_shards, "_sharing", open_shards._Sharing())
    content = write_store(tmp_path / "s", 20, rows_per_shard=1)
    store, real, others = open_store(tmp_path / "s"), os.preadv, list(range(1, 20))
    store.read([0])

    def read_others_first(*arguments: object) -> int:
        wanted, others[:] = others[:], []
        if wanted:
            store.read(wanted)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", read_others_first)
    np.testing.assert_array_equal(store.read([0]).latents, content["latents/toy"][[0]])
    assert not others
    assert len(open_below(tmp_path)) <= 9 + 3  # and a folder per layer
    store.close()


def test_threads_that_open_layers_at_the_same_time_each_get_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, told = [OpenShards(25, True, 40) for _ in range(10)], list[int]()

    def slowly(layer: OpenShards) -> int:  # another thread adds its layer while the shares are counted
        time.sleep(0.001)
        return 40

    monkeypatch.setattr(OpenShards, "wanted", property(slowly, lambda layer, most: None), raising=False)
    threads = [threading.Thread(target=lambda layer=layer: told.append(layer.most)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(told) == len(layers)
    assert min(told) > 0
