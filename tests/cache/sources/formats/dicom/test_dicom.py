"""DICOM: real ultrasound that pydicom ships, and small files for the rules it does not show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import SourceError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.formats.dicom.reader import DicomReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED = [
    pytest.param("examples_ybr_color.dcm", (30, 240, 320), id="jpeg-baseline-ybr-30-frames"),
    pytest.param("examples_jpeg2k.dcm", (1, 480, 640), id="jpeg2000"),
    pytest.param("examples_rgb_color.dcm", (1, 240, 320), id="little-endian-rgb"),
    pytest.param("ExplVR_BigEnd.dcm", (1, 60, 80), id="big-endian-rgb"),
    pytest.param("examples_palette.dcm", (1, 350, 800), id="palette"),
    pytest.param("SC_rgb_rle_2frame.dcm", (2, 100, 100), id="rle-2-frames"),
    pytest.param("SC_ybr_full_422_uncompressed.dcm", (1, 100, 100), id="ybr-422-uncompressed"),
]


def shipped(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is part of pydicom's package"
    return Path(path)


def write(path: Path, pixels: NDArray[Any], photometric: str, frames: int | None = None, **attributes: Any) -> Path:
    """Write uncompressed grey pixels [H, W] or [N, H, W] with a patient's name that must stay in the file."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["usjepa"])
    data.SOPClassUID, data.SOPInstanceUID = UltrasoundImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Doe^Jane", "12345"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if frames is not None or pixels.ndim == 3:
        data.NumberOfFrames = frames or len(pixels)
    data.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def all_frames(path: Path) -> list[NDArray[np.uint8]]:
    return frames(path, range(probe(path).frames))


@pytest.mark.parametrize(("name", "facts"), SHIPPED)
def test_shipped_ultrasound_decodes_to_rgb_bytes(name: str, facts: tuple[int, int, int]) -> None:
    path = shipped(name)
    assert probe(path) == FileFacts(*facts)
    found = all_frames(path)
    assert {(frame.shape, frame.dtype.name) for frame in found} == {((*facts[1:], 3), "uint8")}
    assert found[0].max() > 150


def test_ybr_is_converted_so_that_grey_echo_is_grey() -> None:
    frame = all_frames(shipped("examples_ybr_color.dcm"))[0].astype(int)
    chroma = frame.max(axis=2) - frame.min(axis=2)
    # Read as RGB, the chroma planes of a grey picture (128) would tint every pixel.
    assert (chroma > 40).mean() < 0.05


def test_a_palette_is_looked_up() -> None:
    path = shipped("examples_palette.dcm")
    data = pydicom.dcmread(path)
    red = np.frombuffer(data.RedPaletteColorLookupTableData, "<u2") >> 8
    assert np.array_equal(all_frames(path)[0][..., 0], red[data.pixel_array])


def test_any_ascending_choice_gives_the_frames_of_a_full_read() -> None:
    path = shipped("examples_ybr_color.dcm")
    full, reader = all_frames(path), DicomReader()
    for wanted in ([0, 7, 29], [7], [7, 7, 8], []):
        assert all(np.array_equal(a, full[n]) for a, n in zip(reader.frames(path, "", wanted), wanted, strict=True))


def test_frames_are_counted_not_believed(tmp_path: Path) -> None:
    data = pydicom.dcmread(shipped("examples_ybr_color.dcm"))
    data.NumberOfFrames = 40
    data.save_as(tmp_path / "a.dcm")
    assert probe(tmp_path / "a.dcm").frames == 30


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(all_frames(write(tmp_path / "a.dcm", ramp, "MONOCHROME2"))[0], ramp)
    assert np.array_equal(all_frames(write(tmp_path / "b.dcm", ramp, "MONOCHROME1"))[0], 255 - ramp)
    falling = write(tmp_path / "c.dcm", ramp, "MONOCHROME2", RescaleSlope="-1", RescaleIntercept="255")
    assert np.array_equal(all_frames(falling)[0], 255 - ramp)
    twice = write(tmp_path / "d.dcm", ramp, "MONOCHROME1", RescaleSlope="-2", RescaleIntercept="0")
    assert np.array_equal(all_frames(twice)[0], ramp)


def test_deep_samples_keep_the_upper_8_of_the_bits_in_use_in_the_whole_file(tmp_path: Path) -> None:
    levels = np.stack([np.full((16, 16), level, np.uint16) for level in (0, 15, 4095)])
    path = write(tmp_path / "a.dcm", levels, "MONOCHROME2", WindowCenter=100, WindowWidth=50)
    assert [int(frame[0, 0]) for frame in all_frames(path)] == [0, 0, 255]
    (alone,) = frames(path, [1])
    assert alone[0, 0] == 15 >> 4


def test_signed_samples_are_raised_to_zero(tmp_path: Path) -> None:
    pixels = np.linspace(-1000, 3000, 256).astype(np.int16).reshape(16, 16)
    frame = all_frames(write(tmp_path / "a.dcm", pixels, "MONOCHROME2"))[0]
    assert np.array_equal(frame, (pixels.astype(int) + 1000) >> 4)


def test_what_a_dicom_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it holds no image but: RT Plan Storage"):
        probe(shipped("rtplan.dcm"))
    path = tmp_path / "a.dcm"
    path.write_text("no DICOM at all")
    with pytest.raises(SourceError, match=r"a\.dcm: can't be read as DICOM"):
        probe(path)


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "ExplVR_BigEnd.dcm", "examples_jpeg2k.dcm"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = shipped(name).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="can't be read as DICOM"):
        probe(path)


def test_no_tag_leaves_the_reader(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = write(tmp_path / "a.dcm", ramp, "MONOCHROME2", frames=3)  # names more frames than it holds
    reader = SourceReader(tmp_path, CacheSettings())
    with pytest.raises(SourceError) as caught:
        reader.probe(path.name, "dicom")
    said = str(caught.value) + "".join(capfd.readouterr()) + repr(vars(reader)) + repr(vars(reader._reader("dicom")))
    assert "Doe" not in said
    assert "12345" not in said


def test_the_real_single_frame_jpeg_dicom_is_read(dev_data: Path) -> None:
    (path,) = dev_data.rglob("*.dcm")
    assert probe(path).frames == 1
