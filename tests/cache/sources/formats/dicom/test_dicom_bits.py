"""Bits beside those that a header names: overlays and signs are understood, samples of more bits are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.support.files.decoded import frames, probe
from tests.support.files.dicoms import echo, header, save
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

GREY = echo(2)


def read(path: Path) -> NDArray[np.uint8]:
    return np.stack(frames(path, range(probe(path).frames)))


def values(stored: int, signed: bool) -> NDArray[np.int64]:
    low = -(2 ** (stored - 1)) if signed else 0
    return np.linspace(low, low + 2**stored - 1, 32 * 48).round().astype(np.int64).reshape(1, 32, 48)


def with_overlays(data: Dataset, bits: int) -> Dataset:
    """Say that each of some bits of a word holds an overlay."""
    for plane, bit in enumerate(bit for bit in range(16) if bits >> bit & 1):
        data.add_new((0x6000 + 2 * plane, 0x0100), "US", 16)
        data.add_new((0x6000 + 2 * plane, 0x0102), "US", bit)
    return data


@pytest.mark.parametrize(
    ("stored", "high", "signed"), [(12, 15, False), (12, 13, False), (10, 15, True), (12, 11, True), (8, 7, False)]
)
def test_overlays_beside_the_samples_of_a_word_are_cleared(
    tmp_path: Path, stored: int, high: int, signed: bool
) -> None:
    numbers = values(stored, signed)
    used = ((1 << stored) - 1) << (high + 1 - stored)
    rest = np.uint16(~used & 0xFFFF)
    words = (numbers << (high + 1 - stored) & used).astype(np.uint16) | rest
    data = with_overlays(header(words.view(np.int16) if signed else words), int(rest))
    path = save(tmp_path / "a.dcm", data, words.tobytes(), BitsStored=stored, HighBit=high)
    assert np.array_equal(read(path), ((numbers - numbers.min()) >> (stored - 8)).astype(np.uint8))


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 13)])
def test_the_sign_of_samples_may_fill_the_bits_above_or_not(
    tmp_path: Path, stored: int, high: int, extended: bool
) -> None:
    numbers = values(stored, signed=True)
    words = (numbers << (high + 1 - stored)).astype(np.int16)
    words &= -1 if extended else (1 << (high + 1)) - 1
    path = save(tmp_path / "a.dcm", header(words), words.tobytes(), BitsStored=stored, HighBit=high)
    assert np.array_equal(read(path), (numbers + 2048) >> 4)


def test_a_sign_that_fills_the_bits_above_in_some_samples_alone_is_refused(tmp_path: Path) -> None:
    words = np.linspace(-900, 3000, 32 * 48).astype(np.int16).reshape(1, 32, 48)
    path = save(tmp_path / "a.dcm", header(words), words.tobytes(), BitsStored=12, HighBit=11)
    with pytest.raises(SourceError, match="its samples use 16 bits and would wrap around"):
        probe(path)


WIDE: list[Any] = [
    pytest.param(values(12, False).astype(np.uint16), 8, 7, "use 12 bits .* BitsStored 8, HighBit 7", id="12 in 8"),
    pytest.param(values(12, False).astype(np.uint16), 8, 8, "use 12 bits .* BitsStored 8, HighBit 8", id="high bit"),
    pytest.param(values(16, False).astype(np.uint16), 12, 11, "use 16 bits .* BitsStored 12", id="16 in 12"),
    pytest.param(values(8, False).astype(np.uint8), 7, 6, "use 8 bits .* BitsStored 7", id="8 in 7"),
    pytest.param(values(16, True).astype(np.int16), 12, 11, "use 16 bits .* BitsStored 12", id="signed"),
    pytest.param(values(8, False).astype(np.uint16), 8, 15, "in the lowest 8 bits, .* HighBit 15", id="low 8"),
    pytest.param(
        values(10, True).astype(np.int16), 10, 15, "in the lowest 10 bits, .* HighBit 15", id="low 10, signed"
    ),
]


@pytest.mark.parametrize(("words", "stored", "high", "said"), WIDE)
def test_samples_of_other_bits_than_the_header_says_are_refused(
    tmp_path: Path, words: NDArray[Any], stored: int, high: int, said: str
) -> None:
    path = save(tmp_path / "a.dcm", header(words), words.tobytes(), BitsStored=stored, HighBit=high)
    with pytest.raises(SourceError, match=f"{said}.*: correct these"):
        probe(path)


def test_an_overlay_explains_its_own_bit_alone(tmp_path: Path) -> None:
    words = values(12, False).astype(np.uint16)
    data = with_overlays(header(words), 1 << 9)
    with pytest.raises(SourceError, match="its samples use 12 bits"):
        probe(save(tmp_path / "a.dcm", data, words.tobytes(), BitsStored=8, HighBit=7))
    plane = header(words)
    plane.add_new((0x6000, 0x0100), "US", 1)  # a plane of its own, so at no bit of these
    plane.add_new((0x6000, 0x0102), "US", 11)
    with pytest.raises(SourceError, match="its samples use 12 bits"):
        probe(save(tmp_path / "b.dcm", plane, words.tobytes(), BitsStored=11, HighBit=10))


def test_an_overlay_that_is_not_understood_is_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", with_overlays(header(GREY), 1 << 9), GREY.tobytes())
    content = bytearray(path.read_bytes())
    place = content.index(b"\x00\x60\x02\x01US")  # its position: two bytes, of which the file then has one
    content[place + 6] = 1
    del content[place + 9]
    path.write_bytes(content)
    assert np.array_equal(read(path), GREY)


def test_run_lengths_have_a_high_bit_as_plain_words_have(tmp_path: Path) -> None:
    words = (values(12, False) << 4).astype(np.uint16)
    data = header(words, syntax=RLELossless)
    coded = get_encoder(RLELossless).encode(
        words[0].tobytes(), rows=32, columns=48, samples_per_pixel=1, bits_allocated=16, bits_stored=16,
        pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1, encoding_plugin="pydicom",
    )  # fmt: skip
    path = save(tmp_path / "a.dcm", data, [bytes(coded)], BitsStored=12, HighBit=15)
    assert np.array_equal(read(path), values(12, False) >> 4)
    with pytest.raises(SourceError, match="its samples use 16 bits"):
        probe(save(tmp_path / "a.dcm", data, [bytes(coded)], BitsStored=12, HighBit=11))


CODECS: dict[str, tuple[str, Any]] = {
    "jpeg-2000": (JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k")),
    "htj2k": (HTJ2KLossless, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode),
}


def signed_stream(stream: bytes) -> bytes:
    """Return a stream of JPEG 2000 whose samples are signed: half the range less each, as they are then not shifted."""
    place = stream.index(b"\xff\x4f\xff\x51") + 42
    return stream[:place] + bytes([stream[place] | 0x80]) + stream[place + 1 :]


def stored_in(tmp_path: Path, codec: str, pixels: NDArray[Any], signed: bool, **told: Any) -> Path:
    syntax, encode = CODECS[codec]
    streams = [bytes(encode(frame)) for frame in pixels]
    return save(
        tmp_path / "a.dcm", header(pixels, syntax=syntax), [signed_stream(s) if signed else s for s in streams], **told
    )


@pytest.mark.parametrize("codec", CODECS)
def test_a_stream_of_16_bits_whose_samples_need_more_than_the_header_says_is_refused(
    tmp_path: Path, codec: str
) -> None:
    words = GREY.astype(np.uint16) * 16
    assert np.array_equal(read(stored_in(tmp_path, codec, words, False, BitsStored=12, HighBit=11)), GREY)
    with pytest.raises(SourceError, match="its samples use 12 bits and would wrap around, as its header says"):
        probe(stored_in(tmp_path, codec, words, False, BitsStored=10, HighBit=9))


@pytest.mark.parametrize("codec", ["jpeg-2000", "htj2k"])
@pytest.mark.parametrize("stored", [8, 12])
def test_a_stream_whose_sign_is_not_the_headers_is_refused_where_its_samples_look_as_the_stream_has_them(
    tmp_path: Path, codec: str, stored: int
) -> None:
    told = {"BitsAllocated": 8 if stored == 8 else 16, "BitsStored": stored, "HighBit": stored - 1}
    with pytest.raises(SourceError, match="PixelRepresentation calls samples signed, and they look unsigned"):
        probe(stored_in(tmp_path, codec, GREY, False, PixelRepresentation=1, **told))
    with pytest.raises(SourceError, match="PixelRepresentation calls samples unsigned, and they look signed"):
        probe(stored_in(tmp_path, codec, GREY, True, PixelRepresentation=0, **told))
    assert np.array_equal(read(stored_in(tmp_path, codec, GREY, True, PixelRepresentation=1, **told)), GREY)


@pytest.mark.parametrize("codec", ["jpeg-2000", "htj2k"])
def test_a_stream_whose_sign_is_not_the_headers_is_read_where_its_samples_look_as_the_header_says(
    tmp_path: Path, codec: str
) -> None:
    packed = GREY ^ 0x80  # what signed samples, 128 less, are as unsigned ones; and the other way round
    assert np.array_equal(read(stored_in(tmp_path, codec, packed, False, PixelRepresentation=1)), GREY)
    assert np.array_equal(read(stored_in(tmp_path, codec, packed, True, PixelRepresentation=0)), GREY)
    dark = GREY // 2  # without the bit that could be a sign nothing differs
    assert np.array_equal(read(stored_in(tmp_path, codec, dark, False, PixelRepresentation=1)), dark)


def test_jpeg_ls_has_the_sign_of_the_header_unless_its_samples_have_no_bit_for_it(tmp_path: Path) -> None:
    told = {"PixelRepresentation": 1, "BitsAllocated": 16}
    path = stored_in(tmp_path, "jpeg-ls", GREY ^ 0x80, False, BitsStored=8, HighBit=7, **told)
    assert np.array_equal(read(path), GREY)
    with pytest.raises(SourceError, match="PixelRepresentation calls samples signed, and they look unsigned"):
        probe(stored_in(tmp_path, "jpeg-ls", GREY, False, BitsStored=12, HighBit=11, **told))
