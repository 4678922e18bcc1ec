"""Compressed DICOM: every codec that scanners and archives write gives the frames that went in, or is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    HEVCMP51,
    HTJ2K,
    MPEG2MPML,
    MPEG4HP41,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
)

from tests.support.files.clips import write_clip
from tests.support.files.decoded import frames, probe
from tests.support.files.dicoms import claim, echo, header, save
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read(path: Path) -> NDArray[np.uint8]:
    return np.stack(frames(path, range(probe(path).frames)))


def deep(bits: int, signed: bool = False) -> NDArray[Any]:
    low = -(2 ** (bits - 1)) if signed else 0
    ramp = np.linspace(low, low + 2**bits - 1, 2 * 32 * 48).round()
    return ramp.reshape(2, 32, 48).astype(np.int16 if signed else np.uint16)


LOSSLESS: dict[str, tuple[str, Any]] = {
    "htj2k-lossless": (HTJ2KLossless, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "htj2k": (HTJ2K, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "jpeg-2000": (JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k")),
    "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode),
}


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("pixels", [echo(2), deep(16)], ids=["8-bit", "16-bit"])
def test_a_lossless_codec_gives_back_what_went_in(tmp_path: Path, codec: str, pixels: NDArray[Any]) -> None:
    syntax, encode = LOSSLESS[codec]
    found = read(save(tmp_path / "a.dcm", header(pixels, syntax=syntax), [bytes(encode(frame)) for frame in pixels]))
    assert np.array_equal(found, pixels >> (8 * pixels.itemsize - 8))


@pytest.mark.parametrize(("codec", "allocated"), [("jpeg-2000", 8), ("jpeg-2000", 16), ("jpeg-ls", 8)])
def test_samples_of_more_bits_than_the_header_says_keep_the_upper_8(tmp_path: Path, codec: str, allocated: int) -> None:
    encode: dict[str, Any] = {
        "jpeg-2000": lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", bitspersample=12),
        "jpeg-ls": imagecodecs.jpegls_encode,
    }
    words = deep(12)
    streams = [bytes(encode[codec](frame)) for frame in words]
    told = {"BitsAllocated": allocated, "BitsStored": 8, "HighBit": 7}
    found = read(save(tmp_path / "a.dcm", header(words, syntax=LOSSLESS[codec][0]), streams, **told))
    assert np.array_equal(found, words >> 4)


def test_signed_samples_of_12_bits_in_a_stream_of_16_keep_their_sign(tmp_path: Path) -> None:
    words = deep(12, signed=True)
    streams = [bytes(imagecodecs.jpegls_encode(frame.view(np.uint16) & 0xFFF)) for frame in words]
    data = header(words, syntax=JPEGLSLossless)
    found = read(save(tmp_path / "a.dcm", data, streams, BitsStored=12, HighBit=11))
    assert np.array_equal(found, (words.astype(int) + 2048) >> 4)


@pytest.mark.parametrize("codec", ["htj2k-lossless", "jpeg-2000"])
def test_signed_samples_of_a_lossless_codec_are_raised_to_zero(tmp_path: Path, codec: str) -> None:
    syntax, encode = LOSSLESS[codec]
    pixels = deep(16, signed=True)
    found = read(save(tmp_path / "a.dcm", header(pixels, syntax=syntax), [bytes(encode(frame)) for frame in pixels]))
    assert np.array_equal(found, (pixels.astype(int) + 32768) >> 8)


@pytest.mark.parametrize("said", ["RGB", "YBR_RCT", "YBR_FULL"])
@pytest.mark.parametrize("form", ["j2k", "jp2"])
def test_jpeg_2000_that_undoes_its_colours_is_rgb_whatever_the_header_says(
    tmp_path: Path, said: str, form: str
) -> None:
    grey = echo(2)
    pixels = np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)
    streams = [bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat=form)) for frame in pixels]
    assert np.array_equal(read(save(tmp_path / "a.dcm", header(pixels, said, JPEG2000Lossless), streams)), pixels)


def test_jpeg_2000_without_that_transform_is_what_the_header_says(tmp_path: Path) -> None:
    grey = echo(2)
    pixels = np.stack([grey, np.full_like(grey, 90), np.full_like(grey, 170)], axis=-1)
    streams = [bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", mct=False)) for frame in pixels]
    found = read(save(tmp_path / "a.dcm", header(pixels, "YBR_FULL", JPEG2000Lossless), streams)).astype(int)
    red = (grey + 1.402 * (170 - 128)).clip(0, 255)  # PS3.3, C.7.6.3.1.2
    assert np.abs(found[..., 0] - red).max() <= 1


def test_htj2k_in_colour_is_rgb(tmp_path: Path) -> None:
    grey = echo(2)
    pixels = np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)
    streams = [bytes(imagecodecs.htj2k_encode(frame, reversible=True)) for frame in pixels]
    found = read(save(tmp_path / "a.dcm", header(pixels, "YBR_RCT", HTJ2KLossless), streams))
    assert np.array_equal(found, pixels)


def test_a_jpeg_of_12_bits_keeps_the_upper_8(tmp_path: Path) -> None:
    pixels = deep(12)
    streams = [bytes(imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12)) for frame in pixels]
    data = header(pixels, syntax=JPEGExtended12Bit)
    found = read(save(tmp_path / "a.dcm", data, streams, BitsStored=12, HighBit=11))
    assert np.abs(found.astype(int) - (pixels >> 4)).max() <= 2


@pytest.mark.parametrize(
    ("syntax", "ending", "codec"),
    [
        pytest.param(MPEG2MPML, "mpg", "mpeg2video", id="mpeg2-program-stream"),
        pytest.param(MPEG2MPML, "m2v", "mpeg2video", id="mpeg2-elementary-stream"),
        pytest.param(MPEG4HP41, "mp4", "libx264", id="h264-mp4"),
        pytest.param(MPEG4HP41, "h264", "libx264", id="h264-elementary-stream"),
        pytest.param(HEVCMP51, "mp4", "libx265", id="hevc-mp4"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_encapsulated_video_is_read_as_its_stream_is(tmp_path: Path, syntax: str, ending: str, codec: str) -> None:
    grey = echo(6, 128, 160)
    pixels = np.stack([grey] * 3, axis=-1)
    clip = write_clip(tmp_path / f"clip.{ending}", pixels, codec)
    content = clip.read_bytes()
    content += b"\0" * (len(content) % 2)
    half = len(content) // 4 * 2
    data = header(pixels, "YBR_PARTIAL_420", syntax)
    path = save(tmp_path / "a.dcm", data, [content[:half], content[half:]], NumberOfFrames=99)
    found = read(path)
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 6
    assert np.array_equal(frames(path, [2, 2, 4])[1], found[2])


@pytest.mark.parametrize(
    ("syntax", "named"),
    [
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.110"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_transfer_syntax_that_is_not_read_is_named(tmp_path: Path, syntax: str, named: str) -> None:
    path = save(tmp_path / "a.dcm", header(echo(1), syntax=JPEGLSLossless), [b"\xff\x0a" + bytes(100)])
    with pytest.raises(SourceError, match=rf"its transfer syntax is {named}[^,]*, which is not read"):
        probe(claim(path, syntax))
