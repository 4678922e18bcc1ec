"""NIfTI, MetaImage and NRRD: frames as SimpleITK and nibabel show them, rows downwards, spacing in millimetres."""

from __future__ import annotations

import gzip
import sys
from typing import TYPE_CHECKING, Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from tests.support.files.decoded import frames, probe
from tests.support.files.volumes import SPACING, echo, write_volume
from usjepa.cache.errors import NoImageError, SourceError, UsageError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.base import FileFacts, Spacing
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"]
MILLIMETRES = Spacing(SPACING[1], SPACING[0])


def independent(path: Path) -> np.ndarray:
    """Return [N, H, W] as another program reads it: nibabel a MetaImage's twin, pynrrd, SimpleITK a NIfTI."""
    if path.suffix in (".nrrd", ".nhdr"):
        samples, _ = nrrd.read(str(path))
        return samples.T
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_frames_are_those_of_an_independent_reader_rows_downwards(
    tmp_path: Path, ending: str, compressed: bool
) -> None:
    clip = echo(4)
    file = write_volume(tmp_path / f"a{ending}", clip, compressed=compressed)
    facts = probe(file)
    assert facts == FileFacts(4, 48, 32, spacing=facts.spacing)
    assert facts.spacing == pytest.approx(MILLIMETRES, rel=1e-6)
    found = frames(file, range(4))
    assert np.array_equal(found, clip)
    assert np.array_equal(found, independent(file))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_still_is_one_frame(tmp_path: Path, ending: str) -> None:
    still = echo(1)[0]
    file = write_volume(tmp_path / f"a{ending}", still)
    assert probe(file).frames == 1
    assert np.array_equal(frames(file, [0])[0], still)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_volumes_over_time_are_frames_slice_by_slice(tmp_path: Path, ending: str) -> None:
    clip = echo(6).reshape(2, 3, 48, 32)
    image = SimpleITK.GetImageFromArray(clip, isVector=False)
    assert image.GetDimension() == 4
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    assert probe(tmp_path / f"a{ending}").frames == 6
    assert np.array_equal(frames(tmp_path / f"a{ending}", range(6)), clip.reshape(6, 48, 32))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("count", [1, 3])
def test_colours_stay_colours(tmp_path: Path, ending: str, count: int) -> None:
    colour = np.stack([echo(count, seed=seed) for seed in range(3)], axis=-1)
    file = write_volume(tmp_path / f"a{ending}", colour[0] if count == 1 else colour, vector=True)
    assert probe(file).frames == count
    assert np.array_equal(frames(file, range(count)), colour)


SAMPLES = [
    pytest.param((echo().astype(np.int16) * 16 - 2048), echo(), id="int16"),
    pytest.param(echo().astype(np.uint16) * 257, echo(), id="uint16"),
    pytest.param(echo().astype(np.float32) / 255, echo(), id="float of 0 to 1"),
    pytest.param(echo().astype(np.float64) * 60 / 255 - 60, echo(), id="decibels"),
]


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize(("stored", "shown"), SAMPLES)
def test_samples_of_every_type_follow_the_rule_of_depth(
    tmp_path: Path, ending: str, stored: np.ndarray, shown: np.ndarray
) -> None:
    file = write_volume(tmp_path / f"a{ending}", stored)
    probe(file)
    assert np.abs(np.stack(frames(file, range(3))).astype(int) - shown).max() <= 1


def nifti(path: Path, samples: np.ndarray, **header: Any) -> Path:
    """Write samples [x, y, ...] through nibabel; `header` are fields of its header."""
    image = nibabel.Nifti1Image(samples, np.eye(4))
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def test_slope_and_intercept_of_a_nifti_are_applied(tmp_path: Path) -> None:
    clip = echo()
    image = nibabel.Nifti1Image(clip.T, np.eye(4))
    image.header.set_slope_inter(0.25, -60)
    image.to_filename(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([60 / 255, -60], "<f4").tobytes()  # scl_slope, scl_inter
    data[352:] = clip.tobytes()
    data[70:74] = np.array([2, 8], "<i2").tobytes()  # uint8
    (tmp_path / "a.nii").write_bytes(data)
    assert nibabel.load(tmp_path / "a.nii").get_fdata().min() == pytest.approx(-60)
    assert np.abs(np.stack(frames(tmp_path / "a.nii", range(3))).astype(int) - clip).max() <= 1


def test_nifti_in_red_green_and_blue_of_either_version_and_order_is_read(tmp_path: Path) -> None:
    colour = np.stack([echo(seed=seed) for seed in range(3)], axis=-1)
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    packed = np.ascontiguousarray(colour).view(rgb)[..., 0]
    assert np.array_equal(frames(nifti(tmp_path / "a.nii", packed.T), range(3)), colour)
    nibabel.save(nibabel.Nifti2Image(echo().T, np.eye(4)), tmp_path / "b.nii.gz")
    assert np.array_equal(frames(tmp_path / "b.nii.gz", range(3)), echo())
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(echo().T.astype(np.int16), np.eye(4), header), tmp_path / "c.nii")
    assert np.array_equal(frames(tmp_path / "c.nii", range(3)), echo())


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_the_spacing_of_a_nifti_is_in_its_own_units(tmp_path: Path, units: str, factor: float) -> None:
    image = nibabel.Nifti1Image(echo().T, np.eye(4))
    image.header.set_zooms((0.2 / factor, 0.4 / factor, 1))
    image.header.set_xyzt_units(units)
    image.to_filename(tmp_path / "a.nii")
    assert probe(tmp_path / "a.nii").spacing == pytest.approx((0.4, 0.2), rel=1e-5)
    if units == "unknown":  # as SimpleITK takes it
        assert SimpleITK.ReadImage(str(tmp_path / "a.nii")).GetSpacing()[:2] == pytest.approx((0.2, 0.4), rel=1e-5)


def test_a_nifti_in_metres_that_names_no_unit_has_no_spacing(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(echo().T, np.eye(4))
    image.header.set_zooms((0.0002, 0.0004, 1))
    image.to_filename(tmp_path / "a.nii")
    assert probe(tmp_path / "a.nii").spacing is None


def test_the_spacing_follows_the_axes_as_they_are_stored_not_as_they_are_placed(tmp_path: Path) -> None:
    # Turned by a quarter in the patient, or the axes of the samples swapped: what lies across a frame counts across.
    image = SimpleITK.GetImageFromArray(echo())
    image.SetSpacing((0.2, 0.4, 1))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    swapped = SimpleITK.PermuteAxes(image, (1, 0, 2))
    for name in ("a.mha", "a.nii.gz", "a.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        assert probe(tmp_path / name).spacing == pytest.approx((0.4, 0.2), rel=1e-5)
        SimpleITK.WriteImage(swapped, str(tmp_path / f"s{name}"))
        assert probe(tmp_path / f"s{name}").spacing == pytest.approx((0.2, 0.4), rel=1e-5)
        assert np.array_equal(frames(tmp_path / f"s{name}", [0])[0], frames(tmp_path / name, [0])[0].T)


def test_a_spacing_of_one_stands_for_none(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(echo()), str(tmp_path / "a.mha"))
    assert probe(tmp_path / "a.mha").spacing is None


def test_a_packed_file_with_the_ending_of_a_plain_one_is_read(tmp_path: Path) -> None:
    plain = write_volume(tmp_path / "a.nii", echo())
    (tmp_path / "b.nii").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "C.NII.GZ").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("b.nii", "C.NII.GZ"):
        assert np.array_equal(frames(tmp_path / name, range(3)), echo())


def test_a_list_of_frames_that_slicer_writes_is_a_clip(tmp_path: Path) -> None:
    clip = echo(5)
    header = {"kinds": ["list", "domain", "domain", "domain"]}
    nrrd.write(str(tmp_path / "a.seq.nrrd"), clip[..., None].transpose(0, 2, 1, 3), header)
    assert probe(tmp_path / "a.seq.nrrd").frames == 5
    assert np.array_equal(frames(tmp_path / "a.seq.nrrd", range(5)), clip)


def test_a_segmentation_of_slicer_holds_no_image(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "s.nrrd"), echo().T, {"Segment0_ID": "Segment_1"})
    with pytest.raises(NoImageError, match=r"s\.nrrd: a segmentation of 3D Slicer"):
        probe(tmp_path / "s.nrrd")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, ending: str, compressed: bool) -> None:
    file = write_volume(tmp_path / f"a{ending}", echo(8), compressed=compressed)
    samples = next((path for path in tmp_path.iterdir() if path != file), file)
    samples.write_bytes(samples.read_bytes()[:-600])
    with pytest.raises(SourceError, match=rf"a\{ending}: can't be read as (NIfTI|MetaImage|NRRD): "):
        probe(file)


@pytest.mark.parametrize(
    "name", ["../a.raw", "/etc/passwd", "sub/a.raw", "LIST", "a%03d.raw 1 3 1", "none.raw", "a.mhd"]
)
def test_a_header_reads_no_other_file_than_one_beside_it(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / "a.mhd", echo())
    text = (tmp_path / "a.mhd").read_text().replace("ElementDataFile = a.raw", f"ElementDataFile = {name}")
    (tmp_path / "a.mhd").write_text(text)
    with pytest.raises(SourceError, match=r"its samples (lie in several|are said to lie in|should lie beside)"):
        probe(tmp_path / "a.mhd")
    write_volume(tmp_path / "b.nhdr", echo())
    text = (
        (tmp_path / "b.nhdr").read_text().replace("data file: b.raw", f"data file: {name.replace('a.mhd', 'b.nhdr')}")
    )
    (tmp_path / "b.nhdr").write_text(text)
    with pytest.raises(SourceError, match=r"its samples (lie in several|are said to lie in|should lie beside)"):
        probe(tmp_path / "b.nhdr")


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_samples_beside_a_header_belong_to_its_content(tmp_path: Path, ending: str) -> None:
    file = write_volume(tmp_path / f"a{ending}", echo())
    kind = {".mhd": "metaimage", ".nhdr": "nrrd"}[ending]
    before = SourceReader(tmp_path, CacheSettings()).content_hash(file.name, kind)
    samples = tmp_path / "a.raw"
    samples.write_bytes(samples.read_bytes()[::-1])
    reader = SourceReader(tmp_path, CacheSettings())
    assert reader.content_hash(file.name, kind) != before
    with pytest.raises(SourceError, match="its content changed"):
        list(reader.frames(file.name, kind, [0], before))
    (tmp_path / "elsewhere").mkdir()
    samples.rename(tmp_path / "elsewhere" / "a.raw")
    inner = tmp_path / "in"
    inner.mkdir()
    file.rename(inner / file.name)
    (inner / "a.raw").symlink_to(tmp_path / "elsewhere" / "a.raw")
    with pytest.raises(SourceError, match="a symbolic link leads it out of the folder"):
        SourceReader(inner, CacheSettings()).content_hash(file.name, kind)


@pytest.mark.parametrize("shape", [(48, 4), (8, 8), (1, 48, 12)])
def test_axes_that_are_no_rows_and_columns_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = nifti(tmp_path / "a.nii", np.zeros(shape, np.uint8))
    with pytest.raises(SourceError, match="no frames of at least 16 rows and columns"):
        probe(file)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        pytest.param(np.ones((32, 48), np.complex64), "complex", id="complex"),
        pytest.param(np.ones((32, 48, 1, 1, 7), np.float32), "other values than colours", id="vectors"),
    ],
)
def test_values_that_are_no_intensities_are_refused(tmp_path: Path, samples: np.ndarray, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        probe(nifti(tmp_path / "a.nii", samples))


def test_a_header_that_claims_more_than_its_file_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz", np.zeros((32, 48, 2), np.uint8))
    data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    data[40:48] = np.array([3, 16000, 16000, 30000], "<i2").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(SourceError, match="bytes of samples, which its"):
        probe(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "a.mha", echo(), compressed=True)
    honest = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(honest.replace(b"DimSize = 32 48 3", b"DimSize = 9999 9999 99999"))
    with pytest.raises(SourceError, match="bytes of samples, which its"):
        probe(tmp_path / "a.mha")


@pytest.mark.parametrize(("module", "file"), [("nibabel", "a.nii.gz"), ("SimpleITK", "a.mha"), ("SimpleITK", "a.nrrd")])
def test_a_missing_library_stops_with_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, file: str
) -> None:
    write_volume(tmp_path / file, echo())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs the package {module} .*pip install 'usjepa\[volumes\]'"):
        probe(tmp_path / file)
