"""A header that claims more than its file can hold is refused before memory or time is spent on it."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import SourceError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.registry import reader_of_file

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import FileFacts


def probed(file: Path, image: str = "") -> FileFacts:
    kind = reader_of_file(file)
    assert kind is not None
    path = f"{file.name}::{image}" if image else file.name
    return SourceReader(file.parent, CacheSettings()).probe(path, kind.name)


CLAIMS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "chunked": ((10**8, 16, 16), {"chunks": (1, 16, 16)}),
    "in one piece": ((10**8, 16, 16), {}),
    "compressed": ((10**9, 16, 16), {"chunks": (4096, 16, 16), "compression": "gzip"}),
    "beyond 64 bits": ((2**55, 128, 128), {"chunks": (1, 16, 16)}),
    "wide": ((1, 10**6, 10**6), {"chunks": (1, 16, 16)}),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_hdf5_of_a_kilobyte_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path, claim: str) -> None:
    shape, how = CLAIMS[claim]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("im", shape, "u1", **how)
    assert (tmp_path / "a.h5").stat().st_size < 2000
    with pytest.raises(SourceError, match=r"a\.h5::im: can't be read as HDF5: it claims "):
        probed(tmp_path / "a.h5", "im")


def test_a_chunk_of_twenty_thousand_frames_is_unpacked_once_and_a_larger_one_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("im", data=np.zeros((20_000, 64, 64), np.uint8), chunks=(20_000, 64, 64), compression=1)
    assert probed(tmp_path / "a.h5", "im").frames == 20_000  # at 82 MB a frame, half an hour
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 64), dtype=np.uint8)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        made = file.create_dataset("im", (300_000, 64, 64), "u1", chunks=(300_000, 64, 64), fillvalue=0)
        file["more"] = np.tile(noise, (32, 1, 1))  # 8 MB, so that the claim could be held
        assert made.chunks == (300_000, 64, 64)
    with pytest.raises(SourceError, match="write it again with chunks of one frame"):
        probed(tmp_path / "b.h5", "im")


def png(path: Path, width: int, height: int, depth: int, colour: int) -> Path:
    """Write a PNG that claims to be of that size and has almost no data."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0), b"IDAT": zlib.compress(b"")}
    chunks[b"IEND"] = b""
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


@pytest.mark.parametrize(("edge", "depth", "colour"), [(100_000, 8, 0), (16_384, 8, 0), (16_000, 16, 2)])
def test_a_png_of_a_hundred_bytes_that_claims_a_huge_frame_is_refused(
    tmp_path: Path, edge: int, depth: int, colour: int
) -> None:
    with pytest.raises(SourceError, match=r"a\.png: can't be read as an image: it claims "):
        probed(png(tmp_path / "a.png", edge, edge, depth, colour))


def test_tiff_pages_that_all_show_the_same_bytes_are_refused_before_thousands_are_unpacked(tmp_path: Path) -> None:
    page = zlib.compress(bytes(16_000_000), 9)
    data = bytearray(b"II*\0" + bytes(4) + page)
    link = 4
    for _ in range(2000):
        struct.pack_into("<I", data, link, len(data))
        tags = [
            (256, 4000),
            (257, 4000),
            (258, 8),
            (259, 8),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, 4000),
            (279, len(page)),
        ]
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        link = len(data)
        data += bytes(4)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.tif: can't be read as an image: it claims "):
        probed(tmp_path / "a.tif")


def test_dicom_that_claims_four_gigapixels_is_refused(tmp_path: Path) -> None:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.3.1")
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = pydicom.uid.UID("1.2.3")
    image.Rows = image.Columns = 65535
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 100])
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(SourceError, match="it claims a frame of 65,535 x 65,535 pixels"):
        probed(tmp_path / "a.dcm")


def test_blank_pages_and_masks_are_no_claims(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((6000, 6000), bool)).save(tmp_path / "b.tif", compression="group4")
    assert [probed(tmp_path / name).height for name in ("a.png", "b.tif")] == [6000, 6000]


@pytest.mark.slow
def test_frames_of_16384_beside_small_ones_become_rows(tmp_path: Path) -> None:
    """Takes 4 GB."""
    rng = np.random.default_rng(0)
    huge = np.kron(rng.integers(0, 255, (256, 256), dtype=np.uint8), np.ones((64, 64), np.uint8))
    folder = tmp_path / "in/d/x"
    folder.mkdir(parents=True)
    Image.fromarray(huge).save(folder / "a.png", compress_level=1)
    Image.fromarray(huge).convert("RGB").save(folder / "b.jpg")
    Image.fromarray(huge[:17, :16384].copy()).save(folder / "c.png")
    Image.fromarray(huge[:40, :48].copy()).save(folder / "d.png")
    with h5py.File(folder / "e.h5", "w") as file:
        file.create_dataset("im", data=huge[None], chunks=(1, 1024, 1024), compression=1)
    build(str(tmp_path / "s"), small("cache.decode_processes=1"), BuildRequest(source=str(tmp_path / "in")))
    store = open_store(tmp_path / "s")
    plain = [row for row, view in zip(store.rows, store.table.view, strict=True) if view == 0]
    assert len(plain) == 5
    pixels = store.read(plain).pixels
    assert np.array_equal(pixels[0], pixels[4])
