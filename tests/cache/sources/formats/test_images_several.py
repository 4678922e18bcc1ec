"""Files of several pictures: pages of different kinds, sets of TIFF files that name each other, animated PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.support.files.decoded import frames, probe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLIP = (np.arange(3)[:, None, None] * 40 + np.arange(32 * 48).reshape(32, 48) % 101 + 75).astype(np.uint8)
SET = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{own}"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{dtype}" SizeX="48" SizeY="32" SizeC="1" SizeZ="1" SizeT="3">
<Channel ID="Channel:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>"""
PLANE = """<TiffData IFD="0" FirstT="{number}" PlaneCount="1">
<UUID FileName="{number}.ome.tif">urn:uuid:{number}</UUID></TiffData>"""


def read(path: Path) -> NDArray[np.uint8]:
    return np.stack(frames(path, range(probe(path).frames)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_file_of_a_set_has_its_own_pictures_alone(tmp_path: Path, dtype: str) -> None:
    """OME lets a file name the others of a recording: read through each of them, every frame would come three times."""
    planes = "".join(PLANE.format(number=number) for number in range(3))
    stored = CLIP.astype(dtype) * (1 if dtype == "uint8" else 257)
    for number in range(3):
        text = SET.format(own=number, dtype=dtype, planes=planes)
        tifffile.imwrite(tmp_path / f"{number}.ome.tif", stored[number], description=text, metadata=None)
    assert len(tifffile.imread(tmp_path / "0.ome.tif")) == 3  # so they do name each other
    for number in range(3):
        assert np.abs(read(tmp_path / f"{number}.ome.tif").astype(int) - CLIP[number]).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_each_page_says_for_itself_whether_white_is_zero(tmp_path: Path, dtype: str) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page, photometric in zip(CLIP, ("miniswhite", "minisblack", "miniswhite"), strict=True):
            file.write(page.astype(dtype) * (1 if dtype == "uint8" else 257), photometric=photometric)
    expected = np.stack([255 - CLIP[0], CLIP[1], 255 - CLIP[2]])
    assert np.abs(read(tmp_path / "a.tif").astype(int) - expected).max() <= 1


def test_pages_of_8_and_of_16_bits_are_read_alike(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(CLIP[0], photometric="miniswhite")
        file.write(CLIP[1].astype(np.uint16) * 257, photometric="miniswhite")
    assert np.abs(read(tmp_path / "a.tif").astype(int) - (255 - CLIP[:2])).max() <= 1


def test_a_tiff_that_webp_compressed_is_read(tmp_path: Path) -> None:
    colours = np.stack([CLIP[0], CLIP[1], CLIP[2]], axis=-1)
    lossless = {"level": 100, "lossless": True}
    tifffile.imwrite(
        tmp_path / "a.tif", colours, photometric="rgb", compression="webp", compressionargs=lossless, rowsperstrip=32
    )
    assert np.array_equal(read(tmp_path / "a.tif")[0], colours)


@pytest.mark.parametrize("hidden_still", [False, True])
def test_the_pictures_of_an_animated_png_are_frames(tmp_path: Path, hidden_still: bool) -> None:
    """Programs that know no animation show a still, which may be none of its pictures."""
    shown = [Image.fromarray(np.repeat(picture[..., None], 3, 2)) for picture in CLIP]
    still = Image.new("RGB", (48, 32), "white")
    first, *others = [still, *shown] if hidden_still else shown
    first.save(tmp_path / "a.png", save_all=True, append_images=others, default_image=hidden_still)
    assert np.array_equal(read(tmp_path / "a.png")[..., 0], CLIP)
