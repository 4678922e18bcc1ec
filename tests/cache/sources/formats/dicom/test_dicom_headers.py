"""DICOM headers that lie or lack: counts, transfer syntaxes, colours and bits come from the bytes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.support.files.decoded import frames, probe
from tests.support.files.dicoms import claim, echo, header, save
from usjepa.cache.errors import NoImageError, SourceError
from usjepa.cache.sources.base import Box, Spacing
from usjepa.cache.sources.formats.dicom.reader import DicomReader
from usjepa.cache.sources.registry import reader_of_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(path: Path) -> NDArray[np.uint8]:
    return np.stack(frames(path, range(probe(path).frames)))


def jpeg(frame: NDArray[np.uint8], **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=95, **how)
    return stream.getvalue()


def colours(count: int = 2) -> NDArray[np.uint8]:
    grey = echo(count)
    return np.stack([grey, grey[:, ::-1], np.full_like(grey, 90)], axis=-1)


@pytest.mark.parametrize("declared", [None, 0, 1, 2, 5])
def test_native_frames_are_counted_by_their_bytes(tmp_path: Path, declared: int | None) -> None:
    pixels = echo(5)
    assert np.array_equal(
        read(save(tmp_path / "a.dcm", header(pixels), pixels.tobytes(), NumberOfFrames=declared)), pixels
    )


def test_fewer_native_frames_than_declared_are_cut_short(tmp_path: Path) -> None:
    pixels = echo(3)
    path = save(tmp_path / "a.dcm", header(pixels), pixels.tobytes(), NumberOfFrames=5)
    with pytest.raises(SourceError, match=r"cut short: its pixels should hold 7,680 bytes and hold 4,608"):
        probe(path)


def test_a_file_that_ends_within_its_pixels_says_how_much_is_missing(tmp_path: Path) -> None:
    pixels = echo(3)
    path = save(tmp_path / "a.dcm", header(pixels), pixels.tobytes())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SourceError, match=r"cut short: its pixels should hold 4,608 bytes and hold 3,608"):
        probe(path)


@pytest.mark.parametrize("declared", [None, 1, 3, 5, 9])
@pytest.mark.parametrize("per_frame", [1, 3])
def test_compressed_frames_are_counted_by_the_streams_that_begin(
    tmp_path: Path, declared: int | None, per_frame: int
) -> None:
    pixels = echo(5)
    data = header(pixels, syntax=JPEGBaseline8Bit)
    data.PixelData = encapsulate([jpeg(f) for f in pixels], fragments_per_frame=per_frame, has_bot=False)
    fragments = list(generate_fragments(data.PixelData))[1:]
    assert len(fragments) == 5 * per_frame
    found = read(save(tmp_path / "a.dcm", data, fragments, NumberOfFrames=declared))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 4


def test_a_table_of_offsets_that_is_wrong_moves_no_frame(tmp_path: Path) -> None:
    pixels = echo(4)
    streams = [jpeg(frame) for frame in pixels]
    data = header(pixels, syntax=JPEGBaseline8Bit)
    wrong = bytearray(encapsulate(streams, has_bot=True))
    wrong[12:16] = (8).to_bytes(4, "little")
    data.PixelData = bytes(wrong)
    data["PixelData"].is_undefined_length, data["PixelData"].VR = True, "OB"
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.abs(read(tmp_path / "a.dcm").astype(int) - pixels).mean() < 4


@pytest.mark.parametrize(("declared", "whole"), [(2, True), (3, False), (None, False)])
def test_streams_without_an_end_are_whole_only_if_all_that_were_declared_are_there(
    tmp_path: Path, declared: int | None, whole: bool
) -> None:
    pixels = echo(2)
    streams = [jpeg(frame) for frame in pixels]
    path = save(tmp_path / "a.dcm", header(pixels, syntax=JPEGBaseline8Bit), streams, NumberOfFrames=declared)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xfe\xff\xdd\xe0")])
    if whole:
        assert probe(path).frames == 2
    else:
        with pytest.raises(SourceError, match="cut short"):
            probe(path)


def test_native_ybr_full_422_has_half_the_colour_samples_in_every_frame(tmp_path: Path) -> None:
    ybr = np.stack([echo(3), np.full((3, 32, 48), 100, np.uint8), np.full((3, 32, 48), 160, np.uint8)], axis=-1)
    stored = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], axis=-1)
    data = header(ybr, "YBR_FULL_422")
    found = read(save(tmp_path / "a.dcm", data, stored.tobytes()))
    expected = np.stack([cv2.cvtColor(f[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB) for f in ybr])
    assert np.abs(found.astype(int) - expected).max() <= 2
    whole = save(tmp_path / "b.dcm", header(ybr, "YBR_FULL_422"), ybr.tobytes())
    with pytest.raises(SourceError, match="not subsampled, though it is labelled YBR_FULL_422"):
        probe(whole)


@pytest.mark.parametrize("label", ["YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_FULL_422", "YBR_FULL", "RGB"])
def test_the_colours_of_a_jpeg_are_those_of_its_stream(tmp_path: Path, label: str) -> None:
    pixels = colours()
    streams = [jpeg(frame, subsampling=0) for frame in pixels]
    found = read(save(tmp_path / "a.dcm", header(pixels, label, JPEGBaseline8Bit), streams))
    assert np.abs(found.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("label", ["YBR_PARTIAL_422", "HSV", "CMYK", "SOMETHING"])
def test_a_photometric_interpretation_that_is_not_read_is_named(tmp_path: Path, label: str) -> None:
    pixels = colours()
    path = save(tmp_path / "a.dcm", header(pixels), pixels.tobytes(), PhotometricInterpretation=label)
    with pytest.raises(SourceError, match=f"its photometric interpretation is {label}, which is not read"):
        probe(path)


def test_a_deflated_file_is_read(tmp_path: Path) -> None:
    pixels = echo(4)
    path = save(tmp_path / "a.dcm", header(pixels, syntax=DeflatedExplicitVRLittleEndian), pixels.tobytes())
    assert np.array_equal(read(path), pixels)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises((SourceError, zlib.error)):
        probe(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("name", ["a.dcm", "IM0001", "1.2.840.113619.2.5"])
def test_a_bare_data_set_is_recognised_and_read(tmp_path: Path, syntax: str, name: str) -> None:
    pixels = echo(2).astype(np.uint16) * 16
    data = header(pixels, syntax=syntax)
    stored = pixels.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    content = save(tmp_path / "whole", data, stored).read_bytes()
    data_set = content[content.index(data.file_meta.TransferSyntaxUID.encode()) :]
    start = data_set.index(b"\x00\x08\x00" if syntax == ExplicitVRBigEndian else b"\x08\x00\x16\x00")
    path = tmp_path / name
    path.write_bytes(data_set[start:])
    assert reader_of_file(path) is not None
    assert np.array_equal(read(path), echo(2))


def test_a_syntax_that_lies_is_not_believed(tmp_path: Path) -> None:
    pixels = echo(3)
    streams = [jpeg(frame) for frame in pixels]
    lossless = [imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k") for frame in pixels]
    cases: dict[str, tuple[str, str, Any]] = {
        "jpeg in a native syntax": (ExplicitVRLittleEndian, JPEGBaseline8Bit, streams),
        "native in a syntax of JPEG": (JPEGBaseline8Bit, ExplicitVRLittleEndian, pixels.tobytes()),
        "JPEG 2000 in a syntax of JPEG": (JPEGBaseline8Bit, JPEG2000Lossless, lossless),
        "JPEG in a syntax of JPEG 2000": (JPEG2000Lossless, JPEGBaseline8Bit, streams),
        "JPEG in a syntax of MPEG": (MPEG4HP41, JPEGBaseline8Bit, streams),
        "JPEG in a syntax of nobody": ("1.2.3.4", JPEGBaseline8Bit, streams),
        "native in a syntax of nobody": ("1.2.3.4", ExplicitVRLittleEndian, pixels.tobytes()),
        "low byte first in a syntax of the other": (ExplicitVRBigEndian, ExplicitVRLittleEndian, pixels.tobytes()),
        "high byte first in a syntax of the other": (ExplicitVRLittleEndian, ExplicitVRBigEndian, pixels.tobytes()),
        "plain in a deflated syntax": (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, pixels.tobytes()),
        "deflated in a plain syntax": (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, pixels.tobytes()),
        "JPEG in a syntax of RLE": (RLELossless, JPEGBaseline8Bit, streams),
        "implicit in an explicit syntax": (ExplicitVRLittleEndian, ImplicitVRLittleEndian, pixels.tobytes()),
        "explicit in an implicit syntax": (ImplicitVRLittleEndian, ExplicitVRLittleEndian, pixels.tobytes()),
    }
    for name, (said, true, stored) in cases.items():
        path = claim(save(tmp_path / "a.dcm", header(pixels, syntax=true), stored), said)
        assert np.abs(read(path).astype(int) - pixels).mean() < 3, name


@pytest.mark.parametrize(
    ("told", "true"),
    [
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
        (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    ],
)
def test_a_syntax_that_lies_hides_neither_patient_nor_regions_nor_the_size_of_a_pixel(
    tmp_path: Path, told: str, true: str
) -> None:
    """Its pixels are read all the same, so its patient would come apart into a group a file, unseen."""
    pixels = echo(2)
    data, region = header(pixels, syntax=true), pydicom.Dataset()
    region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, 3, 3
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 4, 2
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 39, 29
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    data.SequenceOfUltrasoundRegions = [region]
    path = claim(save(tmp_path / "a.dcm", data, pixels.tobytes()), told)
    reader = DicomReader()
    assert np.array_equal(read(path), pixels)
    assert reader.patient(path) == "PatientID=12345"
    assert reader.boxes(path) == (Box(4, 2, 40, 30),)
    assert reader.probe(path).spacing == Spacing(0.5, 0.5)


def test_the_components_of_a_stream_count_not_those_of_the_header(tmp_path: Path) -> None:
    grey, rgb = echo(2), colours(2)
    path = save(tmp_path / "a.dcm", header(rgb, "YBR_FULL_422", JPEGBaseline8Bit), [jpeg(frame) for frame in grey])
    assert np.abs(read(path).astype(int) - grey).mean() < 2
    streams = [jpeg(frame, subsampling=0) for frame in rgb]
    path = save(tmp_path / "a.dcm", header(grey, "MONOCHROME2", JPEGBaseline8Bit), streams)
    assert np.abs(read(path).astype(int) - rgb).mean() < 3


def test_a_stream_that_nobody_wrapped_is_read(tmp_path: Path) -> None:
    pixels = echo(1)
    stream = jpeg(pixels[0])
    path = save(tmp_path / "a.dcm", header(pixels), stream + b"\0" * (len(stream) % 2))
    assert np.abs(read(path).astype(int) - pixels).mean() < 2


def test_frames_of_another_size_than_the_header_says_are_refused(tmp_path: Path) -> None:
    pixels = echo(2)
    streams = [jpeg(frame[:20, :24]) for frame in pixels]
    with pytest.raises(SourceError, match="frame 0 does not decode to the 32x48x1 samples that its header names"):
        probe(save(tmp_path / "a.dcm", header(pixels, syntax=JPEGBaseline8Bit), streams))


def test_what_a_header_may_leave_out_has_its_usual_value(tmp_path: Path) -> None:
    pixels = echo(2)
    lacking = {"PixelRepresentation": None, "BitsStored": None, "HighBit": None}
    assert np.array_equal(read(save(tmp_path / "a.dcm", header(pixels), pixels.tobytes(), **lacking)), pixels)
    rgb = colours()
    assert np.array_equal(
        read(save(tmp_path / "b.dcm", header(rgb, "RGB"), rgb.tobytes(), PlanarConfiguration=None)), rgb
    )


@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "image_dfl.dcm"])
def test_shipped_files_that_plain_iteration_fails_on_are_read_as_pydicom_reads_them(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    (expected,) = np.atleast_3d(pydicom.dcmread(path).pixel_array.T).T
    expected = expected.astype(np.int64) - min(int(expected.min()), 0)
    assert np.array_equal(read(path)[0], expected >> max(int(expected.max()).bit_length() - 8, 0))


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm", "liver_1frame.dcm"])
def test_a_file_without_an_image_is_told_apart_from_a_damaged_one(name: str, tmp_path: Path) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    with pytest.raises(NoImageError, match="it holds no image but"):
        probe(path)
    pixels = echo(2)
    cut = save(tmp_path / "a.dcm", header(pixels), pixels.tobytes())
    for share in (0.08, 0.1, 0.12, 0.15):
        cut.write_bytes(cut.read_bytes()[: int(share * 3800)])
        with pytest.raises(SourceError) as caught:
            probe(cut)
        assert not isinstance(caught.value, NoImageError)
