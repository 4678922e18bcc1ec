"""Bytes that are added bit by bit are those that are read, whether they stay in memory or lie in a file."""

from __future__ import annotations

import gc
import pickle
import resource
import signal
import tempfile
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes import forked
from tests.support.stores import open_below
from usjepa.cache.errors import WriteError
from usjepa.cache.places import spill
from usjepa.cache.places.packed import Packed
from usjepa.cache.places.spill import Spill, spilled

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("held", [0, 7, 100, 1 << 18])
@pytest.mark.parametrize("first", [b"", b"begun"])
def test_what_was_added_is_read(monkeypatch: pytest.MonkeyPatch, held: int, first: bytes) -> None:
    monkeypatch.setattr(spill, "_HELD", held)
    rng, made, added = np.random.default_rng(held), Spill(first), bytearray(first)
    places = []
    for size in rng.integers(0, 60, 200).tolist():
        data = rng.bytes(size)
        places.append((len(made), size))
        made.add(data)
        added += data
        begin, count = places[int(rng.integers(len(places)))]
        assert made.read(begin, count) == added[begin : begin + count]
    assert len(made) == len(added)
    again = pickle.loads(pickle.dumps(made))
    assert made.view() == again.view() == added


@pytest.mark.parametrize("held", [0, 1 << 18])
@pytest.mark.parametrize("count", [0, 1, 50_000])
@pytest.mark.parametrize("dtype", ["S16", "uint64", "bool", "int32"])
def test_an_array_is_the_same_in_a_file(monkeypatch: pytest.MonkeyPatch, held: int, count: int, dtype: str) -> None:
    monkeypatch.setattr(spill, "_HELD", held)
    values = np.random.default_rng(1).integers(0, 256, (count, 16), np.uint8).view("S16")[:, 0]
    if dtype != "S16":
        values = np.arange(count)[::-1].astype(dtype)
    found = spilled(values[::2])
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[::2])


def test_nothing_is_left_in_the_folder_and_no_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = spilled(np.arange(100_000))
    assert len(open_below(tmp_path)) == 1  # of the mapping
    assert list(tmp_path.iterdir()) == []
    assert made[-1] == 99_999
    del made
    gc.collect()
    assert open_below(tmp_path) == []


def _add_beyond_a_limit(folder: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    tempfile.tempdir = folder
    try:
        Spill().add(bytes(1 << 20))
    except WriteError as error:
        right = str(error).startswith(f"{folder}: ") and "TMPDIR names another folder" in str(error)
        raise SystemExit(42 if right else 43) from error


def test_a_folder_without_room_is_named_with_what_names_another(tmp_path: Path) -> None:
    assert forked.run(_add_beyond_a_limit, str(tmp_path)) == 42


def test_many_records_take_no_memory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def nbytes(count: int) -> int:
        tracemalloc.start()
        held = Packed(str, (), (f"images/{i}/{i * 7919 % 100_003}.png" for i in range(count)))
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(held) == count
        return found

    monkeypatch.setattr(spill, "_HELD", 1 << 14)
    nbytes(2 << 10)  # imports what packs
    assert (nbytes(60 << 10) - nbytes(20 << 10)) / (40 << 10) < 1  # bytes; 8 and more when they were held
