"""`verify` finds every kind of damage, names it by layer, shard, row and source, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import pytest

from tests.stores import layers, write_store
from usjepa.cache.errors import NotSealedError, UsageError
from usjepa.cache.sheet import write_sheet
from usjepa.cache.status import status_report
from usjepa.cache.verify import verify

if TYPE_CHECKING:
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


def test_quick_reads_no_row_but_finds_a_stale_shard(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    write_store(tmp_path / "old", 10, seed=3)
    shard = "latents/toy/c.1.0.0"
    (tmp_path / "s" / shard).write_bytes((tmp_path / "old" / shard).read_bytes())
    (line,) = map(str, verify(str(tmp_path / "s"), quick=True).damages)
    assert shard in line


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
