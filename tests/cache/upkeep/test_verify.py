"""`verify` finds every kind of damage, names it by layer, shard, row and source, and changes nothing."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from tests.support.stores import layers, write_store
from usjepa.cache.errors import DamageError, NotSealedError, UsageError
from usjepa.cache.inspecting.sheet import write_sheet
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.commits import read_commit
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.cache.upkeep import verify as verifying
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 4
    path.write_bytes(data)


def test_a_whole_store_has_no_damage_and_every_byte_was_read(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, "int8")
    report = verify(str(tmp_path / "s"))
    assert report.damages == []
    assert report.rows == 10
    assert report.nbytes == sum(p.stat().st_size for p in (tmp_path / "s").rglob("c.*"))
    assert report.summary.startswith("ok: 10 rows, 12 shards")


def test_every_bit_of_a_shard_is_covered(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    path = tmp_path / "s/latents/toy/c.0.0.0"
    for byte in range(0, path.stat().st_size, 5):
        _flip(path, byte)
        assert verify(str(tmp_path / "s")).damages, f"byte {byte}"
        _flip(path, byte)
    assert not verify(str(tmp_path / "s")).damages


def test_a_damaged_row_is_named_by_layer_shard_row_and_source(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    _flip(tmp_path / "s/pixels/c.1.0.0.0", layers()["pixels"].layout.slot_nbytes * 2 + 9)
    (line,) = map(str, verify(str(tmp_path / "s")).damages)
    assert "pixels/c.1.0.0.0 (shard 1): row 6 " in line
    assert "a/0006.png, frame 0, view 0" in line


def test_only_the_crc_that_foreign_readers_use_being_wrong_is_damage_too(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    _flip(tmp_path / "s/pixels/c.0.0.0.0", layers()["pixels"].row_nbytes)
    assert len(verify(str(tmp_path / "s")).damages) == 1


@pytest.mark.parametrize(
    "name",
    [
        "pixels/c.1.0.0.0",
        "commits/latents/toy/000002.json",
        "segments/000001/rows.parquet",
        "segments/000001/segment.json",
        "manifests/000001.json",
        "manifest.json",
        "zarr.json",
        "latents/zarr.json",
        "latents/toy/zarr.json",
    ],
)
@pytest.mark.parametrize("how", ["deleted", "emptied", "changed"])
def test_a_lost_or_changed_file_is_found(tmp_path: Path, name: str, how: str) -> None:
    write_store(tmp_path / "s", 10)
    path = tmp_path / "s" / name
    if how == "deleted":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        _flip(path, path.stat().st_size // 2)
    damages = [str(damage) for damage in verify(str(tmp_path / "s")).damages]
    assert any(name in line for line in damages), damages


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("how", ["table", "index", "cut", "deleted"])
def test_a_shard_that_is_damaged_as_a_whole_names_the_rows_that_go_with_it(tmp_path: Path, how: str) -> None:
    write_store(tmp_path / "s", 10, holes=((5, "torn"),))
    path, layout = tmp_path / "s/pixels/c.1.0.0.0", layers()["pixels"].layout
    damage: dict[str, Callable[[], object]] = {
        "table": lambda: _flip(path, path.stat().st_size - layout.trailer_nbytes + 70),
        "index": lambda: _flip(path, path.stat().st_size - 9),
        "cut": lambda: _cut(path),
        "deleted": path.unlink,
    }
    damage[how]()
    (found,) = verify(str(tmp_path / "s")).damages
    assert list(found.lost) == [4, 6, 7]
    assert "it takes 3 rows from 4 to 7 with it (showing a/0004.png, frame 0, view 0 to a/0007.png" in str(found)
    with pytest.raises(DamageError, match=r"shard 1.*It shows a/0006\.png") as raised:
        open_store(tmp_path / "s").read([6])
    error = raised.value
    assert (error.layer, error.shard, error.row) == ("pixels", 1, 6)
    assert error.source is not None
    assert "a/0006.png" in error.source


def test_a_damaged_table_of_a_segment_names_the_rows_that_nothing_else_describes(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    (tmp_path / "s/segments/000001/rows.parquet").unlink()
    (damage,) = verify(str(tmp_path / "s")).damages
    assert damage.lost == range(10)
    assert "10 rows from 0 to 9" in str(damage)


def test_a_damaged_record_names_its_shard_as_a_field(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    _flip(tmp_path / "s/commits/pixels/000002.json", 12)
    storage, layer = LocalStorage(tmp_path / "s"), layers()["pixels"]
    with pytest.raises(DamageError) as raised:
        read_commit(storage, layer, 2)
    assert (raised.value.layer, raised.value.shard) == ("pixels", 2)


def test_quick_reads_no_row_but_finds_a_stale_shard(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    write_store(tmp_path / "old", 10, seed=3)
    shard = "latents/toy/c.1.0.0"
    (tmp_path / "s" / shard).write_bytes((tmp_path / "old" / shard).read_bytes())
    (line,) = map(str, verify(str(tmp_path / "s"), quick=True).damages)
    assert shard in line


@pytest.mark.parametrize("slots", [1, 2, 3, 100])
def test_bad_rows_are_named_in_order_whatever_stretches_they_are_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    write_store(tmp_path / "s", 10, holes=((1, "torn"),))
    slot = layers()["pixels"].layout.slot_nbytes
    monkeypatch.setattr(verifying, "_STRETCH_NBYTES", slots * slot)
    for shard, place in ((0, 0), (0, 2), (1, 1), (1, 3), (2, 0)):  # rows 0, 3 (behind the hole), 5, 7 and 8
        _flip(tmp_path / f"s/pixels/c.{shard}.0.0.0", slot * place + 9)
    assert [damage.row for damage in verify(str(tmp_path / "s")).damages] == [0, 3, 5, 7, 8]


def test_a_shard_is_opened_once_for_its_tables_and_once_for_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", 10)
    monkeypatch.setattr(verifying, "_STRETCH_NBYTES", 1)
    opened, real = [], os.open

    def opening(path: object, *args: object, **kwargs: object) -> int:
        opened.append(str(path))
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opening)
    assert not verify(str(tmp_path / "s")).damages
    assert opened.count("c.1.0.0.0") == 2


def test_a_handle_that_a_share_loses_amid_a_shard_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", 10)
    monkeypatch.setattr(verifying, "_STRETCH_NBYTES", 1)
    reads, lost, real = [], set[tuple[int, int]](), os.pread

    def losing(handle: int, length: int, offset: int) -> bytes:
        reads.append(offset)
        read = os.fstat(handle).st_ino, offset
        if len(reads) % 7 == 0 and read not in lost:  # else one read might be lost as often as it is tried
            lost.add(read)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", losing)
    assert verify(str(tmp_path / "s")).damages == []
    assert len(reads) > 30  # 10 rows of three layers, and those that were lost once more


def test_an_interrupted_verify_leaves_out_the_shards_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", 200)
    looked, real, cancelled = itertools.count(), verifying._shard, threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait)

    def one_and_then_those_begun(*args: Any) -> Any:
        assert next(looked) == 0 or cancelled.wait(60)
        return real(*args)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verifying, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(verifying, "_shard", one_and_then_those_begun)
    monkeypatch.setattr(ProgressBar, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(str(tmp_path / "s"))
    assert 0 < next(looked) < 20  # of 200


def test_an_unsealed_store_has_nothing_to_check_against(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4, seal=False)
    with pytest.raises(NotSealedError, match="Finish its build"):
        verify(str(tmp_path / "s"))


def test_status_tells_written_failed_and_not_yet(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, seal=False, holes=((3, "a/0003.png: torn"),))
    (tmp_path / "s/commits/latents/toy/000001.json").unlink()
    report = status_report(str(tmp_path / "s"))
    assert "not sealed" in report
    assert "layer latents/toy: float16 [4 x 8], 2 of 3 shards written (5 rows" in report
    assert "1 not yet" in report
    assert "row 3: a/0003.png: torn" in report


def test_a_sheet_shows_frame_region_and_latents_of_each_row(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    write_sheet(str(tmp_path / "s"), str(tmp_path / "sheet.png"), rows=3)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape[1] >= 3 * 224
    assert sheet.shape[0] >= 3 * 224


def test_a_sheet_of_nothing_or_onto_no_png_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    with pytest.raises(UsageError, match=r"\.png"):
        write_sheet(str(tmp_path / "s"), str(tmp_path / "sheet.jpg"))
