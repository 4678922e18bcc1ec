"""Images of unusual samples, stacks and turns: the same pixels as an independent reader (tifffile, OpenCV) gives."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GREY = (np.arange(32 * 48).reshape(32, 48) % 251).astype(np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    facts = probe(path)
    found = np.stack(frames(path, range(facts.frames)))
    assert FileFacts(*found.shape[:3]) == facts
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_white_is_zero_is_inverted_whatever_the_samples(tmp_path: Path, dtype: str, compression: str | None) -> None:
    scale = {"uint8": 1, "uint16": 257, "uint32": 16843009, "float32": 1 / 250}[dtype]
    stored = (GREY.astype(np.float64) * scale).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression=compression)
    expected = 255 - (np.round(GREY * 1.02) if dtype == "float32" else GREY)
    assert np.abs(read(tmp_path / "a.tif")[0] - expected).max() <= 1


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_samples_of_every_type_are_read(tmp_path: Path, dtype: str, order: str, compression: str | None) -> None:
    kind = np.dtype(dtype)
    stored = GREY.astype(np.float64) / 250 if kind.kind == "f" else GREY.astype(np.int64) * (1 << kind.itemsize * 8 - 8)
    expected = np.floor(GREY * 1.02 + 0.5) if kind.kind == "f" else GREY
    if kind.kind == "i":
        stored = stored - (1 << kind.itemsize * 8 - 1)
    how: dict[str, Any] = {"byteorder": order, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stored.astype(kind), **how)
    assert np.abs(read(tmp_path / "a.tif")[0] - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["grey", "words", "rgb", "lzw"])
def test_an_orientation_is_applied_once_however_a_tiff_is_stored(tmp_path: Path, orientation: int, form: str) -> None:
    forms: dict[str, Any] = {"words": GREY.astype(np.uint16) * 257, "rgb": np.stack([GREY] * 3, -1)}
    stored = forms.get(form, GREY)
    path = tmp_path / "a.tif"
    compression = "lzw" if form == "lzw" else None
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        path, stored, compression=compression, extratags=tags, photometric="rgb" if form == "rgb" else None
    )
    turns = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1],
        5: GREY.T, 6: GREY.T[:, ::-1], 7: GREY.T[::-1, ::-1], 8: GREY.T[::-1],
    }  # fmt: skip
    found = read(path)[0]
    assert np.array_equal(found if found.ndim == 2 else found[..., 0], turns[orientation])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [2, 5])
def test_a_stack_in_one_directory_has_all_its_frames(tmp_path: Path, dtype: str, count: int) -> None:
    stack = np.stack([np.roll(GREY, 3 * number, axis=0) for number in range(count)])
    stored = stack.astype(dtype) * np.dtype(dtype).type(257 if dtype == "uint16" else 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, imagej=True, metadata={"axes": "TYX"})
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0].offset
        entries = struct.unpack(">H" if tiff.byteorder == ">" else "<H", content[first : first + 2])[0]
    end = first + 2 + 12 * entries
    path.write_bytes(content[:end] + b"\0\0\0\0" + content[end + 4 :])  # ImageJ leaves out the further directories
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    assert np.array_equal(read(path), stack)
    assert np.array_equal(frames(path, [count - 1])[0], stack[-1])
    with tifffile.TiffFile(path) as tiff:
        end = int(tiff.series[0].dataoffset or 0) + stack.size * stored.itemsize
    path.write_bytes(path.read_bytes()[: end - 40])
    with pytest.raises(SourceError, match="cut short"):
        probe(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("tag", [(254, "I", 1, 1, True), (255, "H", 1, 2, True)], ids=str)
def test_thumbnails_of_a_picture_are_no_frames(
    tmp_path: Path, dtype: str, place: str, tag: tuple[int, str, int, int, bool]
) -> None:
    picture, small = GREY.astype(dtype), GREY[::4, ::4].astype(dtype)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        kinds: list[tuple[Any, ...]] = [(small, tag), (picture, None)]
        for pixels, kind in kinds if place == "first" else kinds[::-1]:
            plain: dict[str, Any] = {"metadata": None, "contiguous": False}
            if kind is None:
                writer.write(pixels, **plain)
            elif kind[0] == 254:
                writer.write(pixels, subfiletype=kind[3], **plain)
            else:
                writer.write(pixels, extratags=[kind], **plain)
    assert np.array_equal(read(path), GREY[None])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_words_in_colour_keep_the_upper_8_of_the_bits_in_use(
    tmp_path: Path, bits: int, channels: int, ending: str
) -> None:
    ramp = np.linspace(0, 2**bits - 1, 32 * 48).reshape(32, 48).astype(np.uint16)
    opaque = np.full_like(ramp, 2**bits - 1)
    planes = {2: [ramp, opaque], 3: [ramp, ramp[::-1], ramp], 4: [ramp, ramp[::-1], ramp, opaque]}[channels]
    stored = np.ascontiguousarray(np.stack(planes, axis=-1))
    path = tmp_path / f"a.{ending}"
    if ending == "png":
        path.write_bytes(imagecodecs.png_encode(stored))
    else:
        extra = ["unassalpha"] if channels in (2, 4) else None
        tifffile.imwrite(path, stored, photometric="rgb" if channels > 2 else "minisblack", extrasamples=extra)
    found = read(path)[0]
    assert np.array_equal(found[..., 0], (ramp >> (bits - 8)).astype(np.uint8))
    if channels > 2:
        assert np.array_equal(found[..., 1], (ramp[::-1] >> (bits - 8)).astype(np.uint8))


def test_a_fourth_sample_that_is_said_to_be_nothing_is_no_transparency(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16"):
        rgbx = np.stack([GREY, GREY, GREY, GREY * 0], axis=-1).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", rgbx, photometric="rgb", extrasamples=["unspecified"])
        assert np.array_equal(read(tmp_path / "a.tif")[0][..., 0], GREY)


def test_a_bitmap_whose_fourth_byte_was_never_written_is_not_black(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    rgba = np.stack([GREY, GREY[::-1], GREY, np.zeros_like(GREY)], axis=-1)
    Image.fromarray(rgba, "RGBA").save(path)
    found = read(path)[0]
    assert np.array_equal(found, rgba[..., :3])


def test_a_jpeg_of_12_bits_keeps_the_upper_8(tmp_path: Path) -> None:
    words = np.linspace(0, 4095, 32 * 48).reshape(32, 48).astype(np.uint16)
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(words, level=98, bitspersample=12))
    assert np.abs(read(path)[0].astype(int) - (words >> 4)).max() <= 2
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match="can't be read as an image"):
        probe(path)


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "zstd", "lzma", "packbits"])
def test_a_tiff_is_read_whatever_compressed_it(tmp_path: Path, compression: str) -> None:
    how: dict[str, Any] = {"compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", GREY, **how)
    assert np.abs(read(tmp_path / "a.tif")[0].astype(int) - GREY).mean() < 2


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_a_tiff_may_hold_bytes_or_words(tmp_path: Path, compression: str | None, scale: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256), np.uint16)
    how: dict[str, Any] = {"compression": compression, "colormap": colours * scale}
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="palette", **how)
    found = read(tmp_path / "a.tif")[0]
    assert np.array_equal(found, colours.T[GREY])
    theirs: Any = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_COLOR_RGB)  # libtiff's own view
    assert np.array_equal(found, theirs)


def test_samples_that_are_no_intensities_are_refused_by_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.complex64))
    with pytest.raises(SourceError, match="complex64"):
        probe(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_deep_tiff_that_is_cut_is_refused(tmp_path: Path, compression: str | None, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, compression=compression, rowsperstrip=8)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SourceError, match="can't be read as an image"):
        probe(path)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_opencv_reads_the_same_grey_words(tmp_path: Path, ending: str) -> None:
    words = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), words)
    expected: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read(path)[0], expected >> 8)
