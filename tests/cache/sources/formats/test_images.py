"""Still images: every mode becomes grey or RGB bytes by a rule that can be stated, or the file is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def one(path: Path, number: int = 0) -> NDArray[np.uint8]:
    (frame,) = frames(path, [number])
    return frame


@pytest.fixture
def ramp() -> NDArray[np.uint8]:
    return np.arange(32 * 48, dtype=np.uint32).reshape(32, 48).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "tiff", "bmp"])
def test_grey_and_rgb_come_back_bit_for_bit(tmp_path: Path, ramp: NDArray[np.uint8], ending: str) -> None:
    colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)
    for name, pixels in (("grey", ramp), ("rgb", colour)):
        path = tmp_path / f"{name}.{ending}"
        Image.fromarray(pixels).save(path)
        assert np.array_equal(one(path), pixels)
        assert probe(path) == FileFacts(1, 32, 48)


@pytest.mark.parametrize("ending", ["jpg", "jpeg"])
def test_jpeg_is_read_close_to_what_was_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.full((32, 48), 130, np.uint8)).save(path)
    assert np.abs(one(path).astype(int) - 130).max() <= 1


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    rgba = np.full((16, 16, 4), 200, np.uint8)
    rgba[:8, :, 3] = 0
    rgba[8:12, :, 3] = 128
    rgba[12:, :, 3] = 255
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path)
    frame = one(path)
    assert frame.shape == (16, 16, 3)
    assert [int(frame[row, 0, 0]) for row in (0, 9, 15)] == [0, 100, 200]


def test_palettes_become_their_colours_and_transparent_entries_black(tmp_path: Path) -> None:
    indices = np.repeat(np.arange(2, dtype=np.uint8), 128).reshape(16, 16)
    image = Image.new("P", (16, 16))
    image.putdata(indices.ravel().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50])
    plain, clear = tmp_path / "plain.png", tmp_path / "clear.png"
    image.save(plain)
    image.save(clear, transparency=1)
    assert one(plain)[0, 0].tolist() == [10, 20, 30]
    assert one(plain)[15, 15].tolist() == [200, 100, 50]
    assert one(clear)[15, 15].tolist() == [0, 0, 0]


def test_black_and_white_images_span_the_range(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.eye(16, dtype=bool)).save(path)
    assert np.array_equal(one(path), np.eye(16, dtype=np.uint8) * 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bit_words_keep_the_upper_8_of_the_bits_in_use(tmp_path: Path, bits: int) -> None:
    words = np.linspace(0, 2**bits - 1, 32 * 32).astype(np.uint16).reshape(32, 32)
    for ending in ("png", "tif"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(words).save(path)
        assert np.array_equal(one(path), (words >> (bits - 8)).astype(np.uint8))


def test_pages_of_a_tiff_are_frames_scaled_as_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(np.full((16, 20), level, np.uint16)) for level in (100, 4000, 50)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert probe(path) == FileFacts(3, 16, 20)
    assert [int(frame[0, 0]) for frame in frames(path, [0, 1, 2])] == [100 >> 4, 4000 >> 4, 50 >> 4]
    assert int(one(path, 2)[0, 0]) == 50 >> 4  # the same, asked for alone
    assert [int(frame[0, 0]) for frame in frames(path, [1, 1, 2])] == [250, 250, 3]


def test_float_images_are_spread_over_the_files_own_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.linspace(-3, 1000, 256, dtype=np.float32).reshape(16, 16)).save(path)
    assert np.array_equal(one(path).ravel(), np.arange(256))


def test_pages_of_different_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("L", (20, 16)).save(path, save_all=True, append_images=[Image.new("L", (24, 16))])
    with pytest.raises(SourceError, match=r"page 1 is \(16, 24\) pixels, the first \(16, 20\)"):
        probe(path)


def test_an_orientation_tag_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (48, 32)).save(path, exif=exif)
    assert probe(path) == FileFacts(1, 48, 32)


def test_a_text_file_named_png_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("patient seen on Monday\n")
    with pytest.raises(SourceError, match=r"notes\.png: can't be read as an image: its bytes are none of a PNG"):
        probe(path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_cut_image_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match="can't be read as an image"):
        probe(path)


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        probe(tmp_path / "a.png")


def test_frames_are_wanted_in_ascending_order(tmp_path: Path, ramp: NDArray[np.uint8]) -> None:
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="ascend"):
        frames(tmp_path / "a.tif", [1, 0])
