"""NumPy, MATLAB, UFF and Zarr: their images are sources as those of HDF5 are, whatever the order of axes."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pytest
import scipy.io
import zarr

from tests.cache.sources.formats.arrays.test_hdf5 import bmode, signal
from tests.support.files.decoded import frames, probe
from tests.support.files.volumes import echo
from usjepa.cache.errors import NoImageError, SourceError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source, scan, scan_all
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.files.describing import images_in
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.registry import reader_of_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLIP = echo(20, 40, 24)
COLOUR = np.stack([echo(20, 40, 24, seed) for seed in range(3)], axis=-1)
SETTINGS = CacheSettings()


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def mat5(path: Path, **arrays: Any) -> Path:
    scipy.io.savemat(path, arrays, do_compression=True)
    return path


def mat73(path: Path, **arrays: np.ndarray) -> Path:
    """Write arrays as MATLAB does with -v7.3: axes in reverse, a block of text before the HDF5 file."""
    classes = {"u1": "uint8", "i2": "int16", "f4": "single", "f8": "double", "u2": "uint16"}
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            item = file.create_dataset(name.replace("__", "/"), data=np.ascontiguousarray(array.T), compression="gzip")
            item.attrs["MATLAB_class"] = np.bytes_(classes[array.dtype.str[1:]])
    with path.open("r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def matlab_order(clip: np.ndarray) -> np.ndarray:
    """Return frames [N, H, W, ...] in MATLAB's order, N last."""
    return np.moveaxis(clip, 0, -1)


WRITERS: list[Any] = [
    pytest.param(lambda path, clip: npz(path / "a.npz", x=clip), "x", id="npz"),
    pytest.param(lambda path, clip: npy(path / "a.npy", clip), "", id="npy"),
    pytest.param(lambda path, clip: npy(path / "a.npy", np.asfortranarray(clip)), "", id="npy in Fortran's order"),
    pytest.param(lambda path, clip: mat5(path / "a.mat", x=matlab_order(clip)), "x", id="MATLAB 5"),
    pytest.param(lambda path, clip: mat73(path / "a.mat", x=matlab_order(clip)), "x", id="MATLAB 7.3"),
    pytest.param(lambda path, clip: stored(path / "a.zarr", clip, 2), "array", id="Zarr 2"),
    pytest.param(lambda path, clip: stored(path / "a.zarr", clip, 3), "array", id="Zarr 3"),
]


def stored(path: Path, clip: np.ndarray, version: Literal[2, 3]) -> Path:
    array = zarr.create_array(
        path, shape=clip.shape, chunks=(7, *clip.shape[1:]), dtype=clip.dtype, zarr_format=version
    )
    array[...] = clip
    return path


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize(
    ("clip", "shown"),
    [
        pytest.param(CLIP, CLIP, id="grey"),
        pytest.param(COLOUR, COLOUR, id="colour"),
        pytest.param(CLIP.astype(np.int16) * 16 - 2048, CLIP, id="int16"),
        pytest.param(CLIP.astype(np.float32) / 255, CLIP, id="float"),
        pytest.param(CLIP.astype(np.float64) * 60 / 255 - 60, CLIP, id="decibels"),
    ],
)
def test_a_clip_comes_back_frame_by_frame(
    tmp_path: Path, write: Callable[[Path, np.ndarray], Path], name: str, clip: np.ndarray, shown: np.ndarray
) -> None:
    file = write(tmp_path, clip)
    assert probe(file, name) == FileFacts(20, 40, 24)
    found = np.stack(frames(file, [0, 3, 19], name)).astype(int)
    assert np.abs(found - shown[[0, 3, 19]]).max() <= 1


@pytest.mark.parametrize("write", [mat5, mat73])
def test_stills_and_few_rows_of_matlab_are_told_by_their_axes(tmp_path: Path, write: Callable[..., Path]) -> None:
    python = np.ascontiguousarray(CLIP[:5])  # [5, 40, 24]: five rows are none, so frames come first
    file = write(tmp_path / "a.mat", still=CLIP[0], colour=COLOUR[0], python=python)
    assert np.array_equal(frames(file, [0], "colour")[0], COLOUR[0])
    assert np.array_equal(frames(file, range(5), "python"), python)
    assert images_in(file, "matlab").images == ["colour", "python"]  # beside others, two axes are a table
    alone = write(tmp_path / "b.mat", still=CLIP[0])
    assert np.array_equal(frames(alone, [0], "still")[0], CLIP[0])


def test_structures_of_matlab_are_looked_into(tmp_path: Path) -> None:
    scan = {"bmode": matlab_order(CLIP), "rf": matlab_order(signal(20, 192, 32)), "name": "x"}
    file = mat5(tmp_path / "a.mat", scan=scan, fs=40e6)
    found = images_in(file, "matlab")
    assert found.images == ["scan/bmode", "scan/rf"]
    assert list(found.doubts) == ["scan/rf"]
    assert np.array_equal(frames(file, range(20), "scan/bmode"), CLIP)
    file = mat73(tmp_path / "b.mat", scan__bmode=matlab_order(CLIP))
    assert np.array_equal(frames(file, range(20), "scan/bmode"), CLIP)


def test_cells_of_matlab_are_looked_into_and_complex_data_are_named(tmp_path: Path) -> None:
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = CLIP[0], CLIP[1]
    file = mat5(tmp_path / "a.mat", frames=cells, iq=matlab_order(CLIP).astype(np.complex64))
    assert images_in(file, "matlab").images == ["frames/0", "frames/1"]
    assert np.array_equal(frames(file, [0], "frames/1")[0], CLIP[1])
    file = mat5(tmp_path / "b.mat", iq=matlab_order(CLIP).astype(np.complex64))
    with pytest.raises(SourceError, match=r"it has iq complex64 \[20, 40, 24\]"):
        probe(file)


def test_names_of_arrays_keep_a_test_set_apart(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", train_images=CLIP, test_images=CLIP[::-1], train_labels=np.zeros((20, 1), np.int64))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["val/images"], file["bmode"] = CLIP, CLIP
    listing = list_source(str(tmp_path), SETTINGS)
    assert {entry.path: entry.split for entry in listing.entries} == {
        "a.npz::train_images": "train",
        "a.npz::test_images": "test",
        "b.h5::val/images": "val",
        "b.h5::bmode": "",
    }


@pytest.mark.parametrize("names", [("X_tr", "X_te"), ("imagesTr", "imagesTs"), ("images_tr", "frames_ts")])
def test_names_of_arrays_are_as_short_as_those_of_folders_may_be(tmp_path: Path, names: tuple[str, str]) -> None:
    npz(tmp_path / "a.npz", **dict.fromkeys(names, CLIP))
    listing = list_source(str(tmp_path), SETTINGS)
    assert {entry.path: entry.split for entry in listing.entries} == {
        f"a.npz::{names[0]}": "train",
        f"a.npz::{names[1]}": "test",
    }


def test_the_name_of_a_file_of_arrays_may_say_its_split_and_those_in_it_count_before(tmp_path: Path) -> None:
    npz(tmp_path / "test.npz", a=CLIP, train_images=CLIP)
    with h5py.File(tmp_path / "validation.h5", "w") as file:
        file["bmode"] = CLIP
    listing = list_source(str(tmp_path), SETTINGS)
    assert {entry.path: entry.split for entry in listing.entries} == {
        "test.npz::a": "test",
        "test.npz::train_images": "train",
        "validation.h5::bmode": "val",
    }


def test_cells_of_matlab_7_3_are_read_beside_arrays_as_those_of_older_files_are(tmp_path: Path) -> None:
    clips = [echo(4, seed=seed) for seed in range(4)]
    path = mat73(tmp_path / "a.mat", scan__bmode=matlab_order(CLIP))
    with h5py.File(path, "r+") as file:
        refs = np.empty(4, object)
        for number, clip in enumerate(clips):
            item = file.create_dataset(f"#refs#/{number}", data=np.ascontiguousarray(matlab_order(clip).T))
            item.attrs["MATLAB_class"], refs[number] = np.bytes_("uint8"), item.ref
        cells = file.create_dataset("frames", data=refs.reshape(2, 2).T, dtype=h5py.ref_dtype)
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    listing = list_source(str(path), SETTINGS)
    assert [e.path for e in listing.entries] == [
        *(f"a.mat::frames/{number}" for number in range(4)),
        "a.mat::scan/bmode",
    ]
    for number, clip in enumerate(clips):
        assert np.array_equal(np.stack(frames(path, range(4), f"frames/{number}")), clip)


def test_an_array_of_one_file_that_is_no_image_is_left_out(tmp_path: Path) -> None:
    npy(tmp_path / "clip.npy", CLIP)
    npy(tmp_path / "ages.npy", np.arange(20))
    npy(tmp_path / "received.npy", signal())
    npy(tmp_path / "mask.npy", CLIP // 200)
    scanned = scan_all(list_source(str(tmp_path), SETTINGS), SETTINGS, None, "stop")
    assert scanned.images.path.tolist() == ["clip.npy"]
    assert scanned.left_out == [
        "ages.npy: no images, int64 [20]",
        "mask.npy: mask, by its name",
        "received.npy: radio-frequency data: its samples swing about 0",
    ]
    with pytest.raises(SourceError, match=r"no data set of images .*float64 \[2, 3, 4, 40, 24\]"):
        probe(npy(tmp_path / "five.npy", np.zeros((2, 3, 4, 40, 24))))


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([CLIP, None], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([CLIP, None], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(SourceError, match="it holds Python objects, which are never loaded"):
            probe(tmp_path / name)
    # What describes the frames is often saved beside them so, and is no reason to refuse them.
    np.savez(tmp_path / "c.npz", images=CLIP, about=np.array({"probe": "linear"}, dtype=object))
    assert len(frames(tmp_path / "c.npz", [0, 1], "images")) == 2


def uff(path: Path, decibels: np.ndarray, sector: bool = False, **more: np.ndarray) -> Path:
    """Write beamformed data [N, depth, width] as USTB does: complex, pixels depth first, axes in reverse."""
    count, depth, width = decibels.shape
    magnitude = 10 ** (decibels / 20) * 7e-4
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, decibels.shape)
    pixels = (magnitude * np.exp(1j * phase)).transpose(0, 2, 1).reshape(count, 1, 1, width * depth)
    with h5py.File(path, "w") as file:
        data = file.create_group("b_data")
        data.attrs["class"] = np.bytes_("uff.beamformed_data")
        data["data/real"], data["data/imag"] = pixels.real.astype(np.float32), pixels.imag.astype(np.float32)
        scan = data.create_group("scan")
        scan.attrs["class"] = np.bytes_("uff.sector_scan" if sector else "uff.linear_scan")
        scan["depth_axis" if sector else "z_axis"] = np.linspace(0.005, 0.05, depth)[None]
        across = np.linspace(-0.6, 0.6, width) if sector else np.linspace(-0.02, 0.02, width)
        scan["azimuth_axis" if sector else "x_axis"] = across[None]
        channels = file.create_group("channel_data")
        channels.attrs["class"] = np.bytes_("uff.channel_data")
        channels["data"] = signal()
        for name, array in more.items():
            file[name] = array
    return path


def test_beamformed_data_of_uff_are_shown_in_decibels_below_their_maximum(tmp_path: Path) -> None:
    decibels = bmode(4, 60, 32)
    decibels[2, 30, 16], decibels[:, :2] = 0, -200
    file = uff(tmp_path / "a.uff", decibels)
    assert images_in(file, "uff").images == ["b_data"]
    facts = probe(file, "b_data")
    assert (facts.frames, facts.height, facts.width) == (4, 60, 32)
    assert facts.spacing == pytest.approx((45 / 59, 40 / 31))
    shown = np.floor((decibels.clip(-60, 0) + 60) * 4.25 + 0.5)
    assert np.abs(np.stack(frames(file, range(4), "b_data")) - shown).max() <= 1


def test_a_sector_of_uff_is_scan_converted(tmp_path: Path) -> None:
    decibels = np.full((1, 90, 41), -60.0)
    decibels[0, 60:62] = 0  # an arc of equal depth
    file = uff(tmp_path / "a.uff", decibels, sector=True)
    facts = probe(file, "b_data")
    (frame,) = frames(file, [0], "b_data")
    lit = np.argwhere(frame > 128)
    step = facts.spacing.down if facts.spacing else 0
    top = 5 * np.cos(0.6)
    depth = np.hypot(top + lit[:, 0] * step, (lit[:, 1] - (frame.shape[1] - 1) / 2) * step)
    assert np.abs(depth - (5 + 60.5 * 45 / 89)).max() < 1.5
    assert lit[:, 0].max() > lit[np.abs(lit[:, 1] - lit[:, 1].max()) < 3, 0].max() + 5  # lowest in the middle
    assert not frame[:3, :3].any()


def test_uff_without_beamformed_data_says_what_it_holds(tmp_path: Path) -> None:
    file = uff(tmp_path / "a.uff", bmode())
    with h5py.File(file, "r+") as opened:
        del opened["b_data"]
    with pytest.raises(SourceError, match=r"it holds no beamformed data, but channel_data \(uff.channel_data\)"):
        probe(file)


def test_zea_files_give_the_converted_image_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/raw_data"] = signal()[..., None, None]
        file["data/envelope_data"] = 10 ** (bmode() / 20)
        file["data/image"], file["data/image_sc"] = bmode(), bmode(5, 100, 120)
    listing = list_source(str(tmp_path), SETTINGS)
    assert [entry.path for entry in listing.entries] == ["a.hdf5::data/image_sc"]
    assert "image (not scan-converted, lies beside data/image_sc)" in " ".join(listing.notes)
    decibels = bmode(5, 100, 120)
    shown = (decibels - decibels.min()) * (255 / (decibels.max() - decibels.min()))  # by its own range
    assert np.abs(np.stack(frames(tmp_path / "a.hdf5", range(5), "data/image_sc")) - shown).max() <= 1


def ome(path: Path, clip: np.ndarray, version: Literal[2, 3], axes: str = "tczyx") -> Path:
    """Write OME-Zarr of two levels, with labels; version 2 of Zarr for 0.4, 3 for 0.5."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for level, samples in enumerate((clip, clip[..., ::2, ::2])):
        group.create_array(str(level), shape=samples.shape, dtype=samples.dtype)[...] = samples
        group.create_array(f"labels/cyst/{level}", shape=samples.shape, dtype=np.uint8)[...] = 1
    named = [{"name": name, "type": "space", "unit": "micrometer"} for name in axes]
    scales = [[1.0] * (len(axes) - 2) + [50.0 * 2**level, 25.0 * 2**level] for level in range(2)]
    described: Any = [
        {"axes": named, "datasets": [
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for level, scale in enumerate(scales)
        ]}
    ]  # fmt: skip
    group.attrs.update({"multiscales": described} if version == 2 else {"ome": {"multiscales": described}})
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_the_finest_level_of_ome_zarr_is_read(tmp_path: Path, version: Literal[2, 3]) -> None:
    file = ome(tmp_path / "a.ome.zarr", CLIP.reshape(10, 1, 2, 40, 24), version)
    assert images_in(file, "zarr").images == ["0"]
    facts = probe(file, "0")
    assert facts.frames == 20
    assert facts.spacing == pytest.approx((0.05, 0.025))
    assert np.array_equal(frames(file, range(20), "0"), CLIP)
    colours = ome(tmp_path / "b.zarr", np.moveaxis(COLOUR, -1, 1), version, "tcyx")
    assert np.array_equal(frames(colours, range(20), "0"), COLOUR)


def test_a_folder_of_zarr_is_one_source_and_all_of_it_its_content(tmp_path: Path) -> None:
    source = tmp_path / "in"
    stored(source / "cyst" / "a.zarr", CLIP, 3)
    stored(source / "cyst" / "hidden", CLIP, 2)
    listing = list_source(str(source), SETTINGS)
    assert [(entry.path, entry.label) for entry in listing.entries] == [("cyst/a.zarr::array", "cyst")]
    assert "cyst/hidden is an array of Zarr and is left out: call it hidden.zarr." in listing.notes
    table = scan(listing, SETTINGS, None, "stop")
    chunk = max((source / "cyst" / "a.zarr" / "c").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[::-1])
    reader = SourceReader(source, SETTINGS)
    with pytest.raises(SourceError, match="its content changed since it was scanned"):
        list(reader.frames(table.path[0], "zarr", [0], table.content_hash[0]))
    alone = list_source(str(source / "cyst" / "a.zarr"), SETTINGS)
    assert [entry.path for entry in alone.entries] == ["a.zarr::array"]


def test_a_zip_of_zarr_is_read(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a.zarr", CLIP, 3)
    with zipfile.ZipFile(tmp_path / "b.zarr.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    assert np.array_equal(frames(tmp_path / "b.zarr.zip", range(20), "array"), CLIP)


def test_links_in_a_folder_of_zarr_are_refused(tmp_path: Path) -> None:
    file = stored(tmp_path / "a.zarr", CLIP, 3)
    (file / "c" / "9").symlink_to("/etc")
    with pytest.raises(SourceError, match="'9' in it is a link"):
        SourceReader(tmp_path, SETTINGS).content_hash("a.zarr::array", "zarr")


def test_a_store_of_our_own_is_no_source(tmp_path: Path, small_store: Path) -> None:
    (tmp_path / "s.zarr").symlink_to(small_store)
    assert reader_of_file(small_store.with_suffix(".zarr")) is not None
    with pytest.raises(NoImageError, match="a store that usjepa-cache built"):
        images_in(tmp_path / "s.zarr", "zarr")


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_file_that_is_cut_short_is_refused(
    tmp_path: Path, write: Callable[[Path, np.ndarray], Path], name: str
) -> None:
    file = write(tmp_path, CLIP)
    piece = file if file.is_file() else max((p for p in file.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    piece.write_bytes(piece.read_bytes()[: piece.stat().st_size * 2 // 3])
    with pytest.raises(SourceError, match="can't be read as"):
        probe(file, name)


def test_what_claims_more_than_its_bytes_hold_is_refused(tmp_path: Path) -> None:
    honest = npy(tmp_path / "a.npy", CLIP).read_bytes()
    (tmp_path / "a.npy").write_bytes(honest.replace(b"(20, 40, 24)", b"(90, 40, 24)"))
    with pytest.raises(SourceError, match="it is cut short: it should hold"):
        probe(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", honest.replace(b"(20, 40, 24)", b"(90, 40, 24)"))
    with pytest.raises(SourceError, match=r"x\.npy is cut short"):
        probe(tmp_path / "a.npz", "x")
    zarr.create_array(tmp_path / "a.zarr", shape=(10**6, 4000, 4000), chunks=(1, 100, 100), dtype=np.uint8)
    with pytest.raises(SourceError, match="bytes of samples, which its"):
        probe(tmp_path / "a.zarr", "array")


def test_a_zip_of_the_folder_instead_of_what_lies_in_it_is_refused_with_the_remedy(tmp_path: Path) -> None:
    stored(tmp_path / "in/a.zarr", CLIP, 3)
    shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "in")
    with pytest.raises(SourceError, match="no array and no group of Zarr at its top; zip what lies in the folder"):
        images_in(tmp_path / "a.zarr.zip", "zarr")
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr/notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no array and no group of Zarr at its top\."):
        images_in(tmp_path / "b.zarr", "zarr")
