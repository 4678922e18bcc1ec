"""The compiled loop over a batch's rows: what it reads, what it leaves, and that nothing goes away under it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.native import advise_instead
from tests.support.stores import write_store
from usjepa.cache.errors import DamageError, HoleError
from usjepa.cache.reading import handles, row_loop
from usjepa.cache.reading.grace import Grace
from usjepa.cache.reading.row_loop import RowLoop, compiled, layer_words
from usjepa.cache.reading.shard_table import ShardTable
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.shard import pack_shard, parse_trailer

if TYPE_CHECKING:
    from pathlib import Path


@settings(max_examples=200)
@given(data=st.data())
def test_every_row_of_any_size_is_read_and_hashed_as_xxhash_hashes_it(data: st.DataObject) -> None:
    """Two shards in memory, read by the loop alone; then every byte of a slot is changed in turn, somewhere."""
    nbytes, rows = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 5))
    layer = Layer("pixels", "uint8", (1, 1, nbytes), rows, {"recipe": "any"})
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    content = rng.integers(0, 256, (2 * rows, nbytes), dtype=np.uint8)
    files, table, kept = [], ShardTable(2), []
    for shard in range(2):
        mine = [memoryview(row) for row in content[shard * rows : (shard + 1) * rows]]
        packed, hashed = pack_shard(mine, layer.layout, bytes.fromhex(layer.digest), shard * rows)
        trailer = parse_trailer(
            bytes(packed[-layer.layout.trailer_nbytes :]), len(packed), layer.layout, hashed, "here"
        )
        kept.append(trailer)
        files.append(os.memfd_create("shard"))
        os.write(files[-1], packed)
        table.files[shard], table.offsets[shard], table.hashes[shard] = files[-1] + 1, *trailer.addresses
    wanted = rng.integers(0, 2 * rows, 7)
    out = np.zeros((7, nbytes), np.uint8)
    try:
        assert _loop(layer, table, wanted, out).run(0) == -1
        np.testing.assert_array_equal(out, content[wanted])
        assert table.used.tolist() == [int((wanted < rows).any()), int((wanted >= rows).any())]
        row, at = int(wanted[3]), data.draw(st.integers(0, layer.layout.slot_nbytes - 1))
        place = row % rows * layer.layout.slot_nbytes + at
        was = os.pread(files[row // rows], 1, place)
        os.pwrite(files[row // rows], bytes([was[0] ^ data.draw(st.integers(1, 255))]), place)
        first = int(np.flatnonzero(wanted == row)[0])
        assert _loop(layer, table, wanted, out).run(0) == first
        assert _loop(layer, table, wanted, out, checked=False).run(0) == -1
    finally:
        for file in files:
            os.close(file)


def _loop(layer: Layer, table: ShardTable, rows: Any, out: Any, checked: bool = True) -> RowLoop:
    function = compiled()
    assert function is not None
    words = layer_words(layer, table.columns.shape[1], checked)
    return RowLoop(function, Grace(), words, table, np.array(rows, np.int64), out)


def test_rows_of_no_shard_and_of_shards_not_known_are_left_one_at_a_time() -> None:
    layer = Layer("pixels", "uint8", (1, 1, 64), 4, {"recipe": "any"})
    rows = [0, -1, 7, 8, 2**62, -(2**62)]
    loop = _loop(layer, ShardTable(2), rows, np.zeros((len(rows), 64), np.uint8))
    assert [loop.run(0) for _ in range(len(rows) + 1)] == [0, 1, 2, 3, 4, 5, -1]


def test_a_loop_that_was_stopped_takes_no_further_row() -> None:
    layer = Layer("pixels", "uint8", (1, 1, 64), 4, {"recipe": "any"})
    loop = _loop(layer, ShardTable(2), [0, 1, 2], np.zeros((3, 64), np.uint8))
    assert loop.run(0) == 0
    loop.stop()
    assert loop.run(0) == -1


@pytest.mark.parametrize("row", [-1, 10, 11, 12, 2**40, -(2**63)])
@pytest.mark.parametrize("check_rows", [True, False])
def test_a_number_that_is_no_rows_is_refused_whichever_way_it_is_read(
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
    monkeypatch.setattr(handles, "most_open", lambda: 7)
    monkeypatch.setattr(handles, "_sharing", handles._Sharing())
    store = open_store(tmp_path / "s", threads=3, check_rows=check_rows)
    before, over, failed = len(os.listdir("/proc/self/fd")), threading.Event(), []

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
            for reader in store._own.get().readers.values():
                reader.forget(int(rng.integers(0, 40)))

    dropping = threading.Thread(target=drop)
    reading = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in (dropping, *reading):
        thread.start()
    for thread in reading:
        thread.join()
    over.set()
    dropping.join()
    assert not failed
    assert len(os.listdir("/proc/self/fd")) - before <= 7 + 3  # and a folder a layer
    store.close()


class _Run:
    """A run of a `Grace` that lasts until it is told to end."""

    def __init__(self, grace: Grace) -> None:
        began, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: grace.during(lambda: (began.set(), self._over.wait(30))))
        self._thread.start()
        assert began.wait(30)

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_what_a_run_may_be_using_is_let_go_of_when_it_ends_and_no_later() -> None:
    grace, gone = Grace(), []
    grace.retire(lambda: gone.append("before any run"))
    assert gone == ["before any run"]
    first = _Run(grace)
    grace.retire(lambda: gone.append("in the first"))
    second = _Run(grace)
    grace.retire(lambda: gone.append("in both"))
    assert gone == ["before any run"]
    first.end()
    assert gone == ["before any run", "in the first"]
    third = _Run(grace)
    second.end()
    assert gone == ["before any run", "in the first", "in both"]
    third.end()


def test_a_run_that_was_interrupted_while_it_ended_keeps_nothing() -> None:
    grace, gone = Grace(), []
    grace._runs[threading.Lock()] = 1  # as one is left whose thread Ctrl-C took out of `during`
    grace.retire(lambda: gone.append("at once"))
    assert gone == ["at once"]


def test_who_opens_files_waits_while_many_are_kept_from_being_closed() -> None:
    grace, gone = Grace(), []
    run = _Run(grace)
    for number in range(64):
        grace.wait_for_room()
        grace.retire(lambda number=number: gone.append(number))
    opener = threading.Thread(target=grace.wait_for_room)
    opener.start()
    opener.join(timeout=0.05)
    assert opener.is_alive()
    run.end()
    opener.join(timeout=30)
    assert not opener.is_alive()
    assert gone == list(range(64))


_INTERRUPTED = """
import os, random, signal, sys, time
import numpy as np
from usjepa.cache.reading import handles
from usjepa.cache.reading import reading
from usjepa.cache.reading.store import open_store
reading.FEW_ROWS = 0
handles.most_open = lambda: 12
class Stop(Exception): pass
armed = False
def stop(*_):
    global armed
    if armed:
        armed = False
        raise Stop
signal.signal(signal.SIGALRM, stop)
store, rng, stopped, done = open_store(sys.argv[1], threads=3), np.random.default_rng(0), 0, 0
whole = store.read(range(120)).arrays
usual = []
for _ in range(30):
    start = time.perf_counter()
    store.read(rng.integers(0, 120, 24))
    usual.append(time.perf_counter() - start)
most = 1.5 * max(usual)  # some are read whole
while stopped < int(sys.argv[2]):
    rows = rng.integers(0, 120, 24)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, most))
        got = store.read(rows).arrays
        armed = False
    except Stop:
        stopped += 1
    else:
        done += 1
        assert all((got[name] == whole[name][rows]).all() for name in whole)
print("right after", stopped, "interruptions", done > 0)
"""


@pytest.mark.parametrize("times", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_reading_goes_on_rightly_after_it_was_interrupted_at_any_moment(tmp_path: Path, times: int) -> None:
    """Ctrl-C in a notebook, and read again: nothing is locked for ever, no memory of a batch is written by another."""
    write_store(tmp_path / "s", 120, rows_per_shard=3)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _INTERRUPTED, str(tmp_path / "s"), str(times)],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout == f"right after {times} interruptions True\n", done.stderr


_READ = """
import resource, sys
from usjepa.cache.reading import row_loop
from usjepa.cache.reading.store import open_store
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
store = open_store(sys.argv[1])
for _ in range(64):
    store.read(range(4))
assert "numba" not in sys.modules
store.read(range(4))
print("numba" in sys.modules, row_loop.compiled() is not None)
"""


def _kept_in(folder: Path, store: Path, disk: str) -> list[Path]:
    """Read a store in a process that keeps its compiled loop in a folder; return what is in there."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _READ, str(store), disk], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
    )  # fmt: skip
    assert done.stdout == "True True\n", done.stderr
    return sorted(path for path in folder.rglob("*.nb?"))


def test_where_the_loop_can_not_be_kept_or_was_cut_short_it_is_compiled_again(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    (tmp_path / "kept").mkdir()
    assert _kept_in(tmp_path / "kept", tmp_path / "s", "full") == []
    code, index = _kept_in(tmp_path / "kept", tmp_path / "s", "has room")
    for path in (code, index):
        whole = path.read_bytes()
        for left in (0, 10):
            path.write_bytes(whole[:left])
            assert _kept_in(tmp_path / "kept", tmp_path / "s", "has room") == [code, index]
            assert path.read_bytes() == whole[:left]
        path.write_bytes(whole)


def test_without_a_function_that_it_calls_there_is_no_loop_and_rows_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_store(tmp_path / "s", 9)
    monkeypatch.setattr(row_loop, "_PREAD", "preadv9")
    assert row_loop.addresses() is None
    compiled.cache_clear()
    try:
        assert compiled() is None
        np.testing.assert_array_equal(open_store(tmp_path / "s").read([8, 2]).pixels, content["pixels"][[8, 2]])
    finally:
        monkeypatch.undo()
        compiled.cache_clear()


def test_rows_of_open_shards_are_asked_for_and_the_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 12, rows_per_shard=4, holes=((5, "a/0005.png: torn"),))
    store = open_store(tmp_path / "s")
    store.read([0, 6], layers=["pixels"])
    reader, asked = store._own.get().readers["pixels"], []
    advise_instead(monkeypatch, lambda _, offset, nbytes, advice: asked.append((offset, nbytes, advice)))
    slot = reader.layer.layout.slot_nbytes
    assert reader.ask_known(np.array([9, 7, 0, 5, -1, 10**9, 2])) == [-1, 9, 10**9]
    assert asked == [(at * slot, slot, os.POSIX_FADV_WILLNEED) for at in (0, 2, 2)]  # row 7 lies where no hole was left


def test_damage_in_one_thread_stops_the_others_and_names_its_row(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 400, rows_per_shard=100)
    store = open_store(tmp_path / "s", threads=3)
    path = tmp_path / "s/latents/toy/c.2.0.0"
    data = bytearray(path.read_bytes())
    data[store.layers["latents/toy"].layout.slot_nbytes * 50] ^= 1
    path.write_bytes(data)
    for _ in range(5):
        with pytest.raises(DamageError, match="row 250 is not what was built"):
            store.read(np.random.default_rng(0).permutation(400))
