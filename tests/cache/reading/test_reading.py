"""The read path: aligned memory used again, runs of neighbours, bounded descriptors, jobs shared between threads."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.native import advise_instead, call_instead, preadv2
from tests.support.stores import layers, write_store
from usjepa.cache.errors import DamageError, HoleError, UsageError
from usjepa.cache.reading import handles, pieces, reading
from usjepa.cache.reading.crew import Crew
from usjepa.cache.reading.grace import Grace
from usjepa.cache.reading.handles import MOST_OPEN, RAISE_TO, Handles, allow_many_files, most_open
from usjepa.cache.reading.shard_table import ShardTable
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.reading.trailers import Trailers
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.memory import BatchMemory, Ring, aligned_empty
from usjepa.cache.store.shard import Trailer

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.mark.usefixtures("interpreted")
def test_neighbouring_rows_are_read_by_one_call_and_still_checked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_store(tmp_path / "s", 64, rows_per_shard=32)
    real, calls = os.preadv, []

    def counted(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        calls.append(len(buffers) // 2)
        return real(handle, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", counted)
    store = open_store(tmp_path / "s", threads=1)
    rows = [40, 3, 41, 2, 4, 60, 42]
    np.testing.assert_array_equal(store.read(rows, layers=["latents/toy"]).latents, content["latents/toy"][rows])
    assert calls == [3, 3, 1]
    flip(tmp_path / "s" / "latents/toy/c.1.0.0", store.layers["latents/toy"].layout.slot_nbytes * 9 + 5)
    with pytest.raises(DamageError, match="row 41 is not what was built"):
        store.read(rows, layers=["latents/toy"])


@pytest.mark.parametrize("check_rows", [True, False])
def test_a_hole_of_which_the_manifest_knows_nothing_is_no_data_even_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, check_rows: bool
) -> None:
    """preadv takes a hole's offset of -1 for "from where the file stands" and would give another row."""
    write_store(tmp_path / "s", 10, holes=((3, "a/0003.png: torn"),))
    store = open_store(tmp_path / "s", check_rows=check_rows)
    monkeypatch.setattr(Store, "_check_numbers", lambda *_: None)
    store.read([1, 5])
    for _ in range(2):
        with pytest.raises(HoleError, match="row 3 holds no data"):
            store.read([1, 3])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("most", [1, 7, 100])
def test_reads_cut_short_anywhere_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    content = write_store(tmp_path / "s", 8)
    real = os.preadv

    def short(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        return real(handle, [buffers[0][:most]], offset, flags)

    monkeypatch.setattr(os, "preadv", short)
    got = open_store(tmp_path / "s").read([1, 2, 3, 6], layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"][[1, 2, 3, 6]])


def test_without_row_checks_only_the_checksums_of_rows_are_left_out(tmp_path: Path, way: str) -> None:
    content = write_store(tmp_path / "s", 8)
    store = open_store(tmp_path / "s", check_rows=False)
    np.testing.assert_array_equal(store.read([7, 0]).latents, content["latents/toy"][[7, 0]])
    flip(tmp_path / "s" / "latents/toy/c.1.0.0", -1)  # the index
    store.close()
    with pytest.raises(DamageError, match="crc32c of its index"):
        open_store(tmp_path / "s", check_rows=False).read([5])


def test_trailers_are_bounded_in_bytes_and_the_oldest_go_first() -> None:
    offsets, hashes = np.zeros(4, np.int64), np.zeros(4, np.uint64)
    held, table = Trailers(Grace(), most_nbytes=100), ShardTable(5)
    for shard in range(5):
        held.put(("pixels", shard), Trailer(offsets, hashes, 40, (3, 4)), table)
    assert [held.get(("pixels", shard)) is not None for shard in range(5)] == [False, False, False, True, True]
    assert table.columns[1:3].tolist() == [[0, 0, 0, 3, 3], [0, 0, 0, 4, 4]]


def test_indexes_are_read_when_a_row_of_their_shard_is_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 40)
    parsed = []
    real = reading.parse_trailer
    monkeypatch.setattr(reading, "parse_trailer", lambda *args: parsed.append(args[-1]) or real(*args))
    store = open_store(tmp_path / "s")
    assert parsed == []
    store.read([9], layers=["pixels"])
    store.read([8, 10], layers=["pixels"])
    assert len(parsed) == 1
    assert "c.2.0.0.0" in parsed[0]


def each(pieces: int, do: Callable[[int], object]) -> Callable[[Callable[[], int]], None]:
    """What every thread of a crew does: a thing for every piece that it takes."""

    def work(take: Callable[[], int]) -> None:
        while (number := take()) < pieces:
            do(number)

    return work


def test_every_piece_is_done_once_whatever_the_number_of_threads() -> None:
    for helpers in (0, 1, 3):
        crew = Crew(helpers)
        done: list[int] = []
        crew.run(200, each(200, done.append))
        assert sorted(done) == list(range(200))
        crew.close()


def test_the_first_piece_that_fails_is_the_one_raised_and_none_runs_on() -> None:
    crew, running, seen = Crew(3), threading.Semaphore(0), []

    def do(number: int) -> None:
        seen.append(number)
        if number >= 10:
            raise ValueError(str(number))
        running.release()

    for _ in range(20):
        with pytest.raises(ValueError, match=r"^10$"):
            crew.run(400, each(400, do))
        count = len(seen)
        assert count <= 14
        seen.clear()
    crew.close()


@pytest.mark.parametrize("call_nbytes", [1 << 19, 1], ids=["many rows a piece", "a row a piece"])
@pytest.mark.parametrize("alone_nbytes", [0, 1 << 16], ids=["shared out", "small rows in one thread"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_batch_is_read_right_whatever_the_rows_sizes_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, call_nbytes: int, alone_nbytes: int, threads: int
) -> None:
    monkeypatch.setattr(reading, "CALL_NBYTES", call_nbytes)
    monkeypatch.setattr(reading, "ALONE_NBYTES", alone_nbytes)
    monkeypatch.setattr(pieces, "SHARED_NBYTES", alone_nbytes)
    content = write_store(tmp_path / "s", 61, rows_per_shard=7)
    store, rng = open_store(tmp_path / "s", threads=threads), np.random.default_rng(threads)
    for size in (0, 1, 2, 8, 9, 61, 200):
        rows = rng.integers(0, 61, size)
        batch = store.read(rows)
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array, content[name][rows])


def test_a_row_changed_under_an_open_store_is_named_and_read_again_once_it_is_mended(tmp_path: Path, way: str) -> None:
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


_FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.reading.trailers import Trailers
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
    done = subprocess.run(
        [sys.executable, "-c", _FEW_FILES, str(tmp_path / "s")], capture_output=True, text=True, timeout=280
    )
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


def test_open_stores_share_what_a_process_may_have_and_a_forked_child_begins_with_none(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 150, rows_per_shard=1)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SHARED, str(tmp_path / "s")], capture_output=True, text=True, timeout=60
    )
    found = {name: int(count) for name, count in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}
    assert list(found) == ["one", "four", "child, idle", "child, reading", "one again"], done.stderr
    folders = 3  # one a layer and store stays open
    for name in ("one", "one again", "child, reading"):
        assert 118 <= found[name] <= 120 + folders + 4, (name, found)  # the child's pipe and its parent's
    assert found["four"] <= 120 + 4 * folders, found
    assert found["child, idle"] <= 4, found


def test_a_store_that_needs_few_files_leaves_the_rest_to_those_that_need_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "most_open", lambda: 100)
    monkeypatch.setattr(handles, "_sharing", handles._Sharing())
    storage = LocalStorage(tmp_path)
    for number in range(150):
        storage.publish(f"a/{number}", b"content")
    one, two, three = (Handles(storage, Grace()) for _ in range(3))

    tables = {held: ShardTable(150) for held in (one, two, three)}

    def use(held: Handles, files: int) -> int:
        table = tables[held]
        for number in range(files):
            held.give_back(held.lend(f"a/{number}", table, number))
            assert one.kept + two.kept + three.kept <= 100
        assert np.count_nonzero(table.files) == held.kept
        return held.kept

    assert [use(one, 4), use(two, 7), use(three, 150)] == [4, 7, 100 - 16 - 16]
    assert use(two, 30) == 30
    assert (one.kept, three.kept) == (4, 42)
    assert use(one, 150) == 33
    assert (two.kept, three.kept) == (30, 33)


def test_a_command_raises_the_limit_of_open_files_as_far_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    for soft, hard, wanted in (
        (1024, 4096, (4096, 4096)),
        (1024, 1_048_576, (RAISE_TO, 1_048_576)),
        (1024, endless, (RAISE_TO, endless)),
        (4096, 4096, None),
        (100_000, 1_048_576, None),
        (endless, endless, None),
    ):
        given: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=(soft, hard): limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits, given=given: given.append(limits))
        allow_many_files()
        assert given == ([wanted] if wanted else [])


@pytest.mark.parametrize("refusal", [ValueError("current limit exceeds maximum limit"), OSError(errno.EINVAL, "no")])
def test_a_system_that_does_not_raise_the_limit_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    asked = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise refusal

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_files()
    assert asked == [(RAISE_TO, resource.RLIM_INFINITY)]


def test_the_command_line_runs_with_the_raised_limit(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        "import resource, sys; from usjepa.cache.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print('limit', resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "status", str(tmp_path / "s")], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard)),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"limit {RAISE_TO if hard < 0 else min(RAISE_TO, hard)}", done.stderr


def test_a_folder_that_was_replaced_is_found_again_when_a_file_is_dropped(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.publish("a/x", b"old")
    handles, table = Handles(storage, Grace()), ShardTable(1)
    handles.give_back(handles.lend("a/x", table, 0))
    (tmp_path / "a").rename(tmp_path / "gone")
    storage.publish("a/x", b"new!")
    handles.drop("a/x")
    file = handles.lend("a/x", table, 0)
    assert (file.size, os.pread(file.handle, 9, 0)) == (4, b"new!")
    handles.give_back(file)
    handles.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.handle)


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


def test_threads_that_open_the_same_file_at_once_share_one_descriptor(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.publish("a/x", b"content")
    held, table, both, opened = Handles(storage, Grace()), ShardTable(1), threading.Barrier(2), []
    real = storage.open_in

    def together(place: int, name: str) -> int:
        both.wait(timeout=30)  # neither is known yet when the other one opens it
        opened.append(real(place, name))
        return opened[-1]

    storage.open_in = together  # type: ignore[method-assign]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(held.lend("a/x", table, 0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
    assert sorted(_is_open(handle) for handle in opened) == [False, True]


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def test_helpers_end_when_their_crew_is_closed_or_forgotten() -> None:
    crew = Crew(2)
    crew.run(9, each(9, int))
    closed, forgotten = list(crew._threads), Crew(2)
    crew.close()
    assert not any(thread.is_alive() for thread in closed)
    left = list(forgotten._threads)
    del forgotten
    for thread in left:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in left)


class _Disk:
    """Stands in for a page cache that holds nothing: whoever won't wait gets `at_once` bytes, or is refused.

    Both for Python's preadv and for the C library's preadv2, as the compiled loop calls it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None, at_once: int = 0) -> None:
        self.refusal, self.at_once = refusal, at_once
        self.asked: list[tuple[int, int]] = []
        self.not_waiting = self.waiting = 0
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self.preadv)
        advise_instead(monkeypatch, self.posix_fadvise)
        call_instead(monkeypatch, self.preadv2)

    def preadv(self, handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            self.waiting += 1
            return self._preadv(handle, buffers, offset)
        self.not_waiting += 1
        if self.refusal is not None:
            raise self.refusal
        return self._preadv(handle, [buffers[0][: self.at_once]], offset)

    def preadv2(self, handle: int, buffers: int, count: int, offset: int, flags: int) -> int:
        if not flags:
            self.waiting += 1
            return preadv2(handle, buffers, count, offset, flags)
        self.not_waiting += 1
        return -1 if self.refusal is not None else self.at_once

    def posix_fadvise(self, handle: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        self.asked.append((offset, length))


def _slots(store: Store, rows: list[int]) -> list[tuple[int, int]]:
    layout = store.layers["latents/toy"].layout
    return [(row % layout.rows * layout.slot_nbytes, layout.slot_nbytes) for row in rows]


@pytest.mark.parametrize("at_once", [None, 3], ids=["nothing in memory", "three bytes in memory"])
def test_the_whole_batch_is_asked_for_once_when_its_first_rows_are_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, at_once: int | None
) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s", threads=1)
    rows = [20, 3, 9, 1, 2]
    store.read(rows, layers=["latents/toy"])
    disk = _Disk(monkeypatch, BlockingIOError() if at_once is None else None, at_once or 0)
    got = store.read(rows, layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"][rows])
    one, two, three, nine, twenty = _slots(store, [1, 2, 3, 9, 20])
    if way == "compiled":
        assert disk.asked == [one, two, three, nine, twenty]
    else:
        assert disk.asked == [(one[0], 3 * one[1]), nine, twenty]  # neighbours are asked for as one


def test_rows_in_memory_are_read_without_asking_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s")
    asked: list[object] = []
    advise_instead(monkeypatch, lambda *advice: asked.append(advice))
    store.read(range(24))
    assert asked == []


def test_a_file_system_that_cannot_tell_what_is_in_memory_is_asked_before_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s", threads=1)
    store.read(range(24), layers=["latents/toy"])
    disk = _Disk(monkeypatch, OSError(errno.EOPNOTSUPP, "not supported"))
    for _ in range(3):
        got = store.read([9, 1], layers=["latents/toy"]).latents
        np.testing.assert_array_equal(got, content["latents/toy"][[9, 1]])
    # Once by the compiled loop, where there is one, and once by ourselves; what can't tell is not asked again.
    assert disk.not_waiting == {"compiled": 2, "interpreted": 1}[way]
    assert disk.asked == _slots(store, [1, 9]) * 3


def test_advice_that_is_refused_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    disk = _Disk(monkeypatch, BlockingIOError())

    def refused(*_: int) -> None:
        raise OSError(errno.EIO, "advice")

    monkeypatch.setattr(os, "posix_fadvise", refused)  # the compiled loop looks at no answer
    got = open_store(tmp_path / "s").read(range(24), layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"])
    assert disk.waiting > 0


def test_no_more_shards_are_asked_for_than_stay_open_until_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    write_store(tmp_path / "s", 12, rows_per_shard=1)
    monkeypatch.setattr(handles, "most_open", lambda: 8)
    monkeypatch.setattr(handles, "_sharing", handles._Sharing())  # stores of other tests may still be there
    store = open_store(tmp_path / "s", threads=1)
    store.read(range(12), layers=["latents/toy"])
    disk = _Disk(monkeypatch, BlockingIOError())
    store.read(range(12), layers=["latents/toy"])
    # Of eight that stay open four; and by the compiled loop those that are open already.
    assert len(disk.asked) == {"compiled": 8 + 4, "interpreted": 4}[way]
