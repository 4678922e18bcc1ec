"""Volumes whose headers say that larger samples stand for smaller values are inverted, others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest

from tests.support.files.decoded import frames, probe
from tests.support.files.volumes import echo
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

GREY = echo(4)


def shown(path: Path) -> np.ndarray:
    return np.stack(frames(path, range(probe(path).frames)))


def metaimage(path: Path, told: str, before: bytes = b"") -> Path:
    """Write an `.mha`, or an `.mhd` with its samples, with more lines in its header, and bytes before the samples."""
    lines = f"ObjectType = Image\nNDims = 3\nDimSize = 32 48 4\nElementType = MET_UCHAR\n{told}"
    samples = before + GREY.tobytes()
    if path.suffix == ".mha":
        path.write_bytes(f"{lines}ElementDataFile = LOCAL\n".encode() + samples)
    else:
        path.write_text(f"{lines}ElementDataFile = a.raw\n")
        (path.parent / "a.raw").write_bytes(samples)
    return path


@pytest.mark.parametrize("ending", ["mha", "mhd"])
@pytest.mark.parametrize("slope", [-1, 1, -0.5, 2])
def test_a_negative_slope_of_a_metaimage_inverts(tmp_path: Path, ending: str, slope: float) -> None:
    told = f"ElementToIntensityFunctionSlope = {slope}\nElementToIntensityFunctionOffset = 255\n"
    assert np.array_equal(shown(metaimage(tmp_path / f"a.{ending}", told)), 255 - GREY if slope < 0 else GREY)


def test_bytes_before_the_samples_of_a_metaimage_are_skipped_or_refused(tmp_path: Path) -> None:
    assert np.array_equal(shown(metaimage(tmp_path / "a.mhd", "HeaderSize = 16\n", b"x" * 16)), GREY)
    with pytest.raises(SourceError, match="its HeaderSize is for samples in a file of their own"):
        probe(metaimage(tmp_path / "b.mha", "HeaderSize = 16\n", b"x" * 16))
    with pytest.raises(SourceError, match="it is cut short: it should hold 6,144 bytes of samples and holds 6,128"):
        probe(metaimage(tmp_path / "c.mhd", "HeaderSize = 16\n"))


@pytest.mark.parametrize(("low", "high"), [(255, 0), (0, -60.5), (-60, 0), (0, 255)])
def test_values_of_a_nrrd_that_fell_before_they_were_quantised_invert(tmp_path: Path, low: float, high: float) -> None:
    head = f"NRRD0005\ntype: uint8\ndimension: 3\nsizes: 32 48 4\nencoding: raw\nold min: {low}\nold max: {high}\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + GREY.tobytes())
    assert np.array_equal(shown(tmp_path / "a.nrrd"), 255 - GREY if low > high else GREY)


def test_a_negative_slope_of_a_nifti_inverts_as_nibabel_does(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(GREY.T, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([-1, 255], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    assert np.array_equal(shown(path), np.asarray(nibabel.load(path).get_fdata().T))
    assert np.array_equal(shown(path), 255 - GREY)


def test_samples_of_a_nifti_that_would_begin_within_its_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(GREY.T, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[108:112] = bytes(4)  # vox_offset
    path.write_bytes(data)
    with pytest.raises(SourceError, match="said to begin at byte 0, within its header"):
        probe(path)
