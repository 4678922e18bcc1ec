"""Bytes that a disk must fetch: the whole batch is asked for ahead of time, once, and then waited for."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.stores import write_store
from usjepa.cache.reading.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path


class _Disk:
    """Stands in for a page cache that holds nothing: whoever won't wait gets `at_once` bytes, or is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None, at_once: int = 0) -> None:
        self.refusal, self.at_once = refusal, at_once
        self.asked: list[tuple[int, int]] = []
        self.not_waiting = self.waiting = 0
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(os, "posix_fadvise", self.posix_fadvise)

    def preadv(self, handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            self.waiting += 1
            return self._preadv(handle, buffers, offset)
        self.not_waiting += 1
        if self.refusal is not None:
            raise self.refusal
        return self._preadv(handle, [buffers[0][: self.at_once]], offset)

    def posix_fadvise(self, handle: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        self.asked.append((offset, length))


def _slots(store: Store, rows: list[int]) -> list[tuple[int, int]]:
    layout = store.layers["latents/toy"].layout
    return [(row % layout.rows * layout.slot_nbytes, layout.slot_nbytes) for row in rows]


@pytest.mark.parametrize("at_once", [None, 3], ids=["nothing in memory", "three bytes in memory"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_whole_batch_is_asked_for_once_when_its_first_rows_are_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int | None, threads: int
) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s", threads=threads)
    rows = [20, 3, 9, 1, 2]
    store.read(rows, layers=["latents/toy"])
    disk = _Disk(monkeypatch, BlockingIOError() if at_once is None else None, at_once or 0)
    got = store.read(rows, layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"][rows])
    one, nine, twenty = _slots(store, [1, 9, 20])
    assert disk.asked == [(one[0], 3 * one[1]), nine, twenty]  # neighbours are asked for as one
    assert (disk.not_waiting, disk.waiting) == (1, 5)


def test_ends_of_shards_that_are_not_open_are_asked_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 24, rows_per_shard=8)
    store, layout = open_store(tmp_path / "s", threads=1), open_store(tmp_path / "s").layers["latents/toy"].layout
    disk, read, real = _Disk(monkeypatch, None), list[int](), os.pread

    def counted(handle: int, length: int, offset: int) -> bytes:
        read.append(len(disk.asked))
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    store.read([20, 3, 9], layers=["latents/toy"])
    assert disk.asked[:3] == [(8 * layout.slot_nbytes, layout.trailer_nbytes)] * 3
    assert read == [3, 3, 3]


def test_rows_in_memory_are_read_without_asking_for_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s")
    store.read([0, 8, 16])
    asked: list[object] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *advice: asked.append(advice))
    store.read(range(24))
    assert asked == []


def test_a_file_system_that_cannot_tell_what_is_in_memory_is_asked_before_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    store = open_store(tmp_path / "s", threads=1)
    store.read(range(24), layers=["latents/toy"])
    disk = _Disk(monkeypatch, OSError(errno.EOPNOTSUPP, "not supported"))
    for _ in range(3):
        got = store.read([9, 1], layers=["latents/toy"]).latents
        np.testing.assert_array_equal(got, content["latents/toy"][[9, 1]])
    assert disk.not_waiting == 1  # what can't tell is not asked again
    assert disk.asked == _slots(store, [1, 9]) * 3


def test_advice_that_is_refused_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_store(tmp_path / "s", 24, rows_per_shard=8)
    disk = _Disk(monkeypatch, BlockingIOError())

    def refused(*_: int) -> None:
        raise OSError(errno.EIO, "advice")

    monkeypatch.setattr(os, "posix_fadvise", refused)
    got = open_store(tmp_path / "s").read(range(24), layers=["latents/toy"]).latents
    np.testing.assert_array_equal(got, content["latents/toy"])
    assert disk.waiting > 0
