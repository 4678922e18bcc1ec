"""Transparency in images: black, however the format says it, and also where 0 is white."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.support.files.decoded import frames, probe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 56), np.uint8)
ALPHA = RNG.integers(0, 256, (40, 56), np.uint8)
WHITE = np.where(np.indices((40, 56))[0] < 10, 255, GREY.clip(0, 254)).astype(np.uint8)
"""A white border, as programs save a figure, above what is not white."""


def png(path: Path, samples: NDArray[np.integer], bits: int, hidden: tuple[int, ...]) -> Path:
    """Write grey samples [H, W], or RGB, of so many bits, with a chunk that says which value is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    planes = samples.reshape(*samples.shape[:2], -1)
    each = ((planes[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    rows = np.packbits(each.reshape(len(samples), -1), axis=1)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    veil = b"".join(struct.pack(">H", value) for value in hidden)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", head), (b"tRNS", veil), (b"IDAT", pixels), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    return path


def shown(path: Path) -> NDArray[np.uint8]:
    assert probe(path).frames == 1
    return frames(path, [0])[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_grey_that_is_transparent_in_a_png_is_black(tmp_path: Path, bits: int) -> None:
    scale = 255 / (2 ** min(bits, 8) - 1)
    samples = (WHITE >> (8 - bits)) if bits <= 8 else WHITE.astype(np.uint16) * 257
    file = png(tmp_path / "a.png", samples, bits, (2**bits - 1,))
    found = shown(file)
    kept = WHITE >> max(8 - bits, 0)
    expected = np.where(kept == 2 ** min(bits, 8) - 1, 0, kept * scale)
    assert found[:10].max() == 0
    assert np.array_equal(found, expected.astype(np.uint8))
    if bits == 8:  # libpng says so too
        grey, alpha = np.moveaxis(imagecodecs.png_decode(file.read_bytes()), -1, 0)
        assert np.array_equal(found, np.where(alpha == 0, 0, grey))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_colour_that_is_transparent_in_a_png_is_black(tmp_path: Path, bits: int) -> None:
    colour = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
    colour[:10] = (250, 251, 252)
    scale = 257 if bits == 16 else 1
    found = shown(
        png(tmp_path / "a.png", colour.astype(np.uint16) * scale, bits, (250 * scale, 251 * scale, 252 * scale))
    )
    assert found[:10].max() == 0
    assert np.array_equal(found[10:], colour[10:])


@pytest.mark.parametrize("scale", [1, 257])
def test_a_tiff_whose_zero_is_white_is_inverted_before_it_is_laid_over_black(tmp_path: Path, scale: int) -> None:
    stored = np.stack([GREY, ALPHA], axis=-1).astype(np.uint8 if scale == 1 else np.uint16) * scale
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"]
    )
    expected = ((255 - GREY.astype(int)) * ALPHA + 127) // 255
    assert np.array_equal(shown(tmp_path / "a.tif"), np.repeat(expected[..., None], 3, axis=-1))
