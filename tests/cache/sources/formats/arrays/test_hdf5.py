"""HDF5: every dataset of images is a source, whatever else lies in the file, and handles never cross a fork."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from tests.support.files.clips import ends_well_in_a_fork
from tests.support.files.decoded import frames, probe
from tests.support.processes.forked import in_own_process
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.formats.arrays.hdf5 import Hdf5Reader
from usjepa.cache.sources.registry import split_path

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 20, 24), np.uint8)
COLOUR = RNG.integers(0, 256, (4, 20, 24, 3), np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as opened:
        opened["train/images"] = GREY
        opened.create_dataset("test/images", data=COLOUR, chunks=(4, 20, 24, 3), compression="gzip")
        opened["one_channel"] = GREY[..., None]
        opened["train/labels"] = np.arange(6)
        opened["train/boxes"] = np.zeros((6, 4, 2), np.float32)
        opened["names"] = ["a", "b"]
        opened["scalar"] = 3.0
        opened["alias"] = h5py.SoftLink("/train/images")
        opened["elsewhere"] = h5py.ExternalLink("other.h5", "/images")
    return path


def test_image_datasets_are_found_and_nothing_else(file: Path) -> None:
    assert Hdf5Reader().images(file) == ["one_channel", "test/images", "train/images"]


def test_frames_come_back_bit_for_bit(file: Path) -> None:
    reader = Hdf5Reader()
    assert reader.probe(file, "train/images") == FileFacts(6, 20, 24)
    assert reader.probe(file, "test/images") == FileFacts(4, 20, 24)
    assert np.array_equal(list(reader.frames(file, "train/images", range(6))), GREY)
    assert np.array_equal(list(reader.frames(file, "test/images", [1, 3])), COLOUR[[1, 3]])
    assert np.array_equal(list(reader.frames(file, "one_channel", [2, 2])), GREY[[2, 2]])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(np.array([0, 0.5, 1], np.float32), [0, 128, 255], id="unit-floats"),
        pytest.param(np.array([0, 99.6, 255], np.float64), [0, 100, 255], id="floats-to-255"),
        pytest.param(np.array([-1, 0, 1], np.float16), [0, 128, 255], id="signed-floats"),
        pytest.param(np.array([0, 256, 4095], np.uint16), [0, 16, 255], id="12-bit"),
        pytest.param(np.array([0, 100, 200], np.uint16), [0, 100, 200], id="8-bit-in-16"),
    ],
)
def test_other_types_are_scaled_by_the_range_of_the_whole_dataset(
    tmp_path: Path, stored: np.ndarray, expected: list[int]
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = np.broadcast_to(stored[:, None, None], (3, 16, 16))
    probe(tmp_path / "a.h5", "x")
    assert [int(frame[0, 0]) for frame in frames(tmp_path / "a.h5", [0, 1, 2], "x")] == expected
    assert [int(frame[0, 0]) for frame in frames(tmp_path / "a.h5", [1], "x")] == expected[1:2]


@pytest.mark.parametrize("outside", [np.nan, -np.inf])
def test_what_is_not_finite_is_shown_as_the_smallest_value(tmp_path: Path, outside: float) -> None:
    decibels = np.linspace(-60, 0, 3 * 20 * 24).reshape(3, 20, 24).astype(np.float32)
    expected = np.floor((decibels + 60) * 4.25 + 0.5)
    decibels[:, :, :5], expected[:, :, :5] = outside, 0
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = decibels
    assert np.abs(np.stack(frames(tmp_path / "a.h5", range(3), "x")) - expected).max() <= 1


def test_a_dataset_without_a_finite_value_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = np.full((2, 16, 16), np.nan, np.float32)
    with pytest.raises(SourceError, match="it holds no finite value"):
        probe(tmp_path / "a.h5", "x")


@pytest.mark.parametrize(
    ("factor", "offset", "expected"),
    [
        pytest.param(1.0000002, 0.0, 255, id="just above 1"),
        pytest.param(1.009, -0.005, 255, id="a hundredth beyond 0 and 1"),
        pytest.param(256.5, -1.0, 255, id="a hundredth beyond 0 and 255"),
        pytest.param(3e-5, 0.0, 255, id="an envelope in volts"),
        pytest.param(4.0, 0.0, 255, id="an envelope of another scale"),
        pytest.param(1e9, 0.0, 255, id="an envelope of squares"),
        pytest.param(0.5, 0.0, 128, id="a dark clip in 0 to 1"),
        pytest.param(128.0, 0.0, 128, id="a dark clip in 0 to 255"),
    ],
)
def test_floats_of_any_scale_keep_their_levels(tmp_path: Path, factor: float, offset: float, expected: int) -> None:
    ramp = np.linspace(0, 1, 2 * 40 * 50).reshape(2, 40, 50)
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = (ramp * factor + offset).astype(np.float64)
    found = np.stack(frames(tmp_path / "a.h5", range(2), "x"))
    assert abs(int(found.max()) - expected) <= 1
    assert len(np.unique(found)) >= expected / 2
    assert np.abs(found - ramp * expected).max() <= 3


@pytest.mark.slow
@in_own_process
def test_handles_never_cross_a_fork(file: Path) -> None:
    reader = Hdf5Reader()
    begun = reader.frames(file, "train/images", range(6))
    assert np.array_equal(next(begun), GREY[0])
    assert reader._open is not None
    inherited = reader._open[2]

    def in_child() -> bool:
        rest = list(begun)  # a generator that was begun in the parent goes on in the child
        owner, _, opened = reader._open or (0, None, None)
        return np.array_equal(rest, GREY[1:]) and owner == os.getpid() and bool(opened) and not inherited

    assert ends_well_in_a_fork(in_child)
    assert inherited, "the parent's own handle stays open"
    assert np.array_equal(list(begun), GREY[1:])
    assert reader._open == (os.getpid(), file, inherited)


def test_datasets_whose_bytes_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as opened:
        opened["images"] = GREY
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        layout = h5py.VirtualLayout(GREY.shape, np.uint8)
        layout[:] = h5py.VirtualSource("other.h5", "images", GREY.shape)
        opened.create_virtual_dataset("virtual", layout)
        opened["link"] = h5py.ExternalLink("other.h5", "/images")
    assert Hdf5Reader().images(tmp_path / "a.h5") == ["virtual"]
    with pytest.raises(SourceError, match="lie in other files"):
        probe(tmp_path / "a.h5", "virtual")
    with pytest.raises(SourceError, match="no dataset of images named 'link'"):
        probe(tmp_path / "a.h5", "link")


def test_what_is_wrong_with_a_file_is_said(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.h5"
    text.write_text("no HDF5\n" * 100)
    with pytest.raises(SourceError, match=r"notes\.h5: can't be read as HDF5"):
        probe(text)
    with h5py.File(tmp_path / "b.h5", "w") as opened:
        opened["a/btchw"], opened["bool"] = np.zeros((2, 3, 1, 20, 24), np.float32), np.zeros((2, 20, 24), bool)
    with pytest.raises(
        SourceError, match=r"no data set of images .*: it has a/btchw float32 \[2, 3, 1, 20, 24\], bool"
    ):
        probe(tmp_path / "b.h5")
    with pytest.raises(SourceError, match=r"no dataset of images named 'train/labels': it is int64 \[6\]"):
        probe(file, "train/labels")
    with pytest.raises(SourceError, match="it has 6 frames, none with number 6"):
        frames(file, [6], "train/images")


def test_a_cut_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(SourceError, match="can't be read as HDF5"):
        probe(file, "train/images")


def test_paths_of_datasets_are_split_only_behind_a_file_ending() -> None:
    assert split_path("d/a.h5::train/x") == ("d/a.h5", "train/x")
    assert split_path("d/A.HDF5::x::y") == ("d/A.HDF5", "x::y")
    assert split_path("odd::name.png") == ("odd::name.png", "")


def written(path: Path, **sets: np.ndarray) -> Path:
    with h5py.File(path, "w") as opened:
        for name, samples in sets.items():
            opened[name.replace("__", "/")] = samples
    return path


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        pytest.param(GREY[:, None], GREY, id="N1HW"),
        pytest.param(GREY[..., None], GREY, id="NHW1"),
        pytest.param(COLOUR.transpose(0, 3, 1, 2), COLOUR, id="N3HW"),
        pytest.param(GREY[0], GREY[:1], id="HW"),
        pytest.param(COLOUR[0], COLOUR[:1], id="HW3"),
        pytest.param(GREY[:1], GREY[:1], id="1HW"),
        pytest.param((GREY.astype(np.int32) * 256 - 32768).astype(np.int16), GREY, id="int16"),
        pytest.param(GREY.astype(">u2") * 257, GREY, id="big-endian"),
        pytest.param(GREY[:, None].astype(np.float32) / 255, GREY, id="N1HW-float"),
    ],
)
def test_frames_are_found_whatever_the_order_of_axes(tmp_path: Path, stored: np.ndarray, shown: np.ndarray) -> None:
    path = written(tmp_path / "a.h5", images=stored)
    assert Hdf5Reader().images(path) == ["images"]
    assert probe(path, "images") == FileFacts(*shown.shape[:3])
    assert np.array_equal(frames(path, range(len(shown)), "images"), shown)


def signal(frames: int = 5, depth: int = 192, lines: int = 32) -> np.ndarray:
    """Return what a transducer receives: a carrier of four samples a period under an envelope that varies."""
    rng = np.random.default_rng(0)
    carrier = np.cos(np.arange(depth) * np.pi / 2)[None, :, None]
    return (carrier * rng.rayleigh(1000, (frames, depth, lines))).astype(np.float32)


def bmode(frames: int = 5, depth: int = 192, lines: int = 32) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.clip(20 * np.log10(rng.rayleigh(1, (frames, depth, lines))) - 20, -60, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("sets", "left_out"),
    [
        pytest.param({"data__real": signal(), "data__imag": signal()}, {"data/real", "data/imag"}, id="picmus"),
        pytest.param({"x": signal()}, {"x"}, id="rf by its samples"),
        pytest.param({"x": signal().astype(np.int16)}, {"x"}, id="rf of integers"),
        pytest.param({"x": signal().transpose(0, 2, 1)}, {"x"}, id="rf with depth last"),
        pytest.param({"x": bmode()}, set(), id="decibels"),
        pytest.param({"x": (bmode() - bmode().mean()) / bmode().std()}, set(), id="z-scores"),
        pytest.param({"envelope": 10 ** (bmode() / 20)}, set(), id="an envelope alone"),
        pytest.param({"envelope": 10 ** (bmode() / 20), "bmode": bmode()}, {"envelope"}, id="envelope and b-mode"),
        pytest.param({"image": GREY, "beamformed_data": bmode(), "rf": signal()}, {"beamformed_data", "rf"}, id="zea"),
        pytest.param({"image": GREY, "mask": GREY // 255}, {"mask"}, id="a mask by its name"),
        pytest.param({"x": GREY, "y": GREY // 100}, {"y"}, id="a label map by its levels"),
        pytest.param({"y": GREY // 100}, set(), id="few levels alone"),
        pytest.param({"image": GREY, "features": np.ones((200, 64), np.float32)}, set(), id="a table beside images"),
        pytest.param({"features": np.ones((200, 64), np.float32)}, {"features"}, id="a table alone"),
        pytest.param({"train_images": GREY, "test_images": GREY[:2]}, set(), id="two of images"),
    ],
)
def test_what_is_no_image_is_doubted(tmp_path: Path, sets: dict[str, np.ndarray], left_out: set[str]) -> None:
    assert set(Hdf5Reader().doubts(written(tmp_path / "a.h5", **sets))) == left_out


@pytest.mark.parametrize(
    ("shape", "doubted"),
    [
        ((480, 640, 30), True),
        ((640, 30, 480), True),
        ((112, 112, 28), True),
        ((112, 112, 16), True),
        ((112, 112, 15), False),  # no images at all: too narrow
        ((480, 640, 150), False),  # does not show
        ((30, 480, 640), False),
        ((30, 112, 112), False),
        ((1000, 128, 112), False),
        ((200, 64, 512), False),  # 64 lines of 512 samples
        ((112, 112, 3), False),
    ],
)
def test_an_array_whose_frames_would_be_strips_is_doubted(
    tmp_path: Path, shape: tuple[int, ...], doubted: bool
) -> None:
    path = written(tmp_path / "a.h5", x=np.random.default_rng(0).integers(0, 255, shape, np.uint8))
    told = Hdf5Reader().doubts(path)
    assert bool(told) == doubted
    assert all("frames seem to lie along another axis" in why for why in told.values())
