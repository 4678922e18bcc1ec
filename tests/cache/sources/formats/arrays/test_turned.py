"""Arrays whose frames lie along another axis than the first, where all axes are about as long: told by what is still.

Found are about half of those of sectors; never doubted is what is rightly stored, clip or stills, of one scanner or of
many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import pytest

from tests.cache.sources.formats.arrays.test_arrays import mat5, mat73, matlab_order, npy, npz, stored
from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import NoImageError, SourceError
from usjepa.cache.recipes.cache import PhantomSettings
from usjepa.cache.sources.files.describing import images_in
from usjepa.cache.sources.formats.arrays.sets import doubts_of
from usjepa.cache.sources.phantom.source import Phantom

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

HEIGHT, WIDTH = 96, 104


def outline(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a sector as scanners draw it, its apex at the top."""
    down, across = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    across -= WIDTH * rng.uniform(0.45, 0.55)
    down += HEIGHT * rng.uniform(0, 0.1)
    depth = np.hypot(down, across)
    return (abs(np.arctan2(across, down)) < rng.uniform(0.55, 0.8)) & (depth > 8) & (depth < HEIGHT * 1.02)


def tissue(rng: np.random.Generator, moved: int = 0) -> NDArray[np.float64]:
    slow = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), 5)
    return np.roll(slow / slow.std(), moved, axis=0)


def clip(seed: int, count: int = 90) -> Frames:
    """Return a clip of a sector: tissue that moves under speckle."""
    rng = np.random.default_rng(seed)
    inside, slow = outline(rng), tissue(rng)
    moving = [np.roll(slow, round(4 * np.sin(number / 6)), axis=0) for number in range(count)]
    return np.stack([shown(rng, frame, inside) for frame in moving])


def stills(seed: int, one_scanner: bool, count: int = 90) -> Frames:
    """Return stills of as many patients, all within one outline or each within its own."""
    rng = np.random.default_rng(seed)
    inside = outline(rng)
    return np.stack([shown(rng, tissue(rng), inside if one_scanner else outline(rng)) for _ in range(count)])


def shown(rng: np.random.Generator, slow: NDArray[np.float64], inside: NDArray[np.bool_]) -> Frames:
    speckle = cv2.GaussianBlur(rng.rayleigh(1, slow.shape), (0, 0), 0.8)
    return ((60 + 25 * slow + 40 * (speckle - 1.25)).clip(1, 255) * inside).astype(np.uint8)


TURNED: list[Any] = [
    pytest.param((1, 2, 0), r"\[96, 104, N\]", id="HWN"),
    pytest.param((2, 1, 0), r"\[104, 96, N\]", id="WHN"),
    pytest.param((1, 0, 2), r"\[96, N, 104\]", id="HNW"),
]


@pytest.mark.parametrize(("order", "said"), TURNED)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_frames_along_another_axis_are_left_out_and_told(
    tmp_path: Path, order: tuple[int, ...], said: str, kind: type
) -> None:
    turned: NDArray[Any] = np.ascontiguousarray(clip(0).transpose(order)).astype(kind)
    with pytest.raises(NoImageError, match=f"nothing changes along N of {said}.*transpose it"):
        probe(npy(tmp_path / "a.npy", turned))
    for file, name in ((npz(tmp_path / "a.npz", x=turned), "npz"), (stored(tmp_path / "a.zarr", turned, 3), "zarr")):
        assert [reason.count("transpose it") for reason in images_in(file, name).doubts.values()] == [1]
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"], opened["y"] = turned, clip(0)
    assert list(images_in(tmp_path / "a.h5", "hdf5").doubts) == ["x"]


def test_python_order_in_a_file_of_matlab_is_told_and_matlabs_own_is_read(tmp_path: Path) -> None:
    pixels = clip(0)
    for write in (mat5, mat73):
        file = write(tmp_path / "a.mat", python=pixels, matlab=matlab_order(pixels))
        found = images_in(file, "matlab")
        assert list(found.doubts) == ["python"]
        assert "transpose it" in found.doubts["python"]
        assert np.array_equal(frames(file, [0, 7], "matlab"), pixels[[0, 7]])


def test_hdf5_that_matlab_saved_under_another_ending_is_refused(tmp_path: Path) -> None:
    file = mat73(tmp_path / "a.mat", x=matlab_order(clip(0)))
    with pytest.raises(SourceError, match=r"MATLAB wrote it, with its axes in reverse; give it the ending \.mat"):
        probe(file.rename(tmp_path / "a.h5"), "x")


def phantom(seed: int) -> Frames:
    """Return frames of the built-in phantom, of two patients one after the other."""
    simulated = Phantom(PhantomSettings(patients=2, size=96, seed=seed, frames_per_patient=24))
    pairs = [(source.path, number) for source in simulated.patients() for number in range(source.frames)]
    return np.stack([cv2.cvtColor(simulated.frame(*pair), cv2.COLOR_RGB2GRAY) for pair in pairs])


RIGHT: dict[str, Any] = {
    "a clip": clip,
    "a clip that fills the frame": lambda seed: clip(seed)[:, 20:80, 36:68].repeat(2, axis=2),
    "stills of one scanner": lambda seed: stills(seed, one_scanner=True),
    "stills of many": lambda seed: stills(seed, one_scanner=False),
    "clips one after the other": lambda seed: np.concatenate([clip(10 * seed + part, 20) for part in range(5)]),
    "phantom": phantom,
    "noise": lambda seed: np.random.default_rng(seed).integers(0, 256, (90, 80, 96), np.uint8),
    "nothing": lambda seed: np.full((90, 80, 96), seed, np.uint8),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_frames_that_come_first_are_never_doubted(kind: str) -> None:
    for seed in range(4):
        pixels = RIGHT[kind](seed)
        assert doubts_of({"x": pixels, "bars": np.pad(pixels, ((0, 0), (12, 12), (0, 0)))}) == {}, seed


def test_what_is_damaged_is_not_doubted_and_costs_nothing_beside_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["whole"] = clip(0)
        broken = opened.create_dataset("broken", data=clip(0), chunks=(1, HEIGHT, WIDTH), compression="gzip")
        place = broken.id.get_chunk_info(0).byte_offset
    with (tmp_path / "a.h5").open("r+b") as content:
        content.seek(place)
        content.write(b"\0" * 64)
    assert images_in(tmp_path / "a.h5", "hdf5").images == ["broken", "whole"]
    with pytest.raises(SourceError):
        probe(tmp_path / "a.h5", "broken")
