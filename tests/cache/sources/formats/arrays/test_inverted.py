"""Arrays whose files say that bright is dark, or that samples are numbers of colours, are shown so or refused."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pytest
import scipy.io
import zarr

from tests.cache.sources.formats.arrays.test_arrays import mat73
from tests.support.files.decoded import frames, probe
from tests.support.files.volumes import echo
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts

if TYPE_CHECKING:
    from pathlib import Path

GREY = echo(4)
COLOUR = np.stack([echo(4, seed=seed) for seed in range(3)], axis=1)
"""[N, 3, H, W]"""
RGB = ("FF0000", "00FF00", "0000FF")
MAP = np.random.default_rng(0).random((256, 3))
FALLING = np.repeat(np.linspace(1, 0, 256)[:, None], 3, axis=1)


def shown(path: Path, name: str) -> np.ndarray:
    facts = probe(path, name)
    found = np.stack(frames(path, range(facts.frames), name))
    assert facts == FileFacts(*found.shape[:3])
    return found


def ome(path: Path, samples: np.ndarray, channels: list[dict[str, Any]], version: Literal[2, 3] = 2) -> Path:
    """Write OME-Zarr [T, C, Y, X] whose channels are shown so."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", shape=samples.shape, dtype=samples.dtype, chunks=samples.shape)[...] = samples
    scale = {"type": "scale", "scale": [1] * samples.ndim}
    level = {"path": "0", "coordinateTransformations": [scale]}
    told: dict[str, Any] = {"multiscales": [{"axes": [{"name": axis} for axis in "tcyx"], "datasets": [level]}]}
    told["omero"] = {
        "channels": [{"window": {"start": 40, "end": 60, "min": 0, "max": 255}, **one} for one in channels]
    }
    group.attrs.update(told if version == 2 else {"ome": told})
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("inverted", [True, False])
def test_an_inverted_channel_of_ome_zarr_is_inverted_and_its_window_not_applied(
    tmp_path: Path, version: Literal[2, 3], inverted: bool
) -> None:
    path = ome(tmp_path / "a.zarr", GREY[:, None], [{"inverted": inverted, "color": "FFFFFF"}], version)
    assert np.array_equal(shown(path, "0"), 255 - GREY if inverted else GREY)


def test_channels_of_ome_zarr_that_are_inverted_in_part_are_refused(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.zarr", COLOUR, [{"inverted": one} for one in (True, False, False)])
    with pytest.raises(SourceError, match="some of its channels are inverted"):
        probe(path, "0")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_channels_of_ome_zarr_are_red_green_and_blue_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = ome(tmp_path / "a.zarr", COLOUR[:, order], [{"color": RGB[channel]} for channel in order])
    assert np.array_equal(shown(path, "0"), np.moveaxis(COLOUR, 1, -1))


def test_a_negative_factor_of_a_zarr_array_inverts(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=GREY.shape, dtype="u1", chunks=(1, 48, 32))
    array[...] = GREY
    array.attrs.update({"scale_factor": -0.25, "add_offset": 60})
    assert np.array_equal(shown(tmp_path / "a.zarr", "array"), 255 - GREY)


DEEP = GREY.astype(np.int16) * 8
"""Of 11 bits: shown as GREY is."""


@pytest.mark.parametrize("missing", [-32768, 32767])
@pytest.mark.parametrize("kept", ["attribute", "xarray in Zarr 2", "missing_value", "level of OME-Zarr"])
def test_what_is_missing_in_a_zarr_array_is_black_and_takes_no_levels(tmp_path: Path, kept: str, missing: int) -> None:
    """As in HDF5: outside the scan xarray writes the fill value, and echo would be left two levels."""
    samples, name = DEEP.copy(), "array"
    samples[:, :, :5] = missing
    if kept == "xarray in Zarr 2":
        array = zarr.create_array(
            tmp_path / "a.zarr",
            shape=samples.shape,
            dtype="i2",
            chunks=samples.shape,
            zarr_format=2,
            fill_value=missing,
        )
        array[...], array.attrs["_ARRAY_DIMENSIONS"] = samples, ["time", "y", "x"]
    elif kept == "level of OME-Zarr":
        name = "0"
        zarr.open_array(ome(tmp_path / "a.zarr", samples[:, None], []) / name).attrs["_FillValue"] = missing
    else:
        array = zarr.create_array(tmp_path / "a.zarr", data=samples)
        array.attrs["_FillValue" if kept == "attribute" else kept] = missing
    assert np.array_equal(shown(tmp_path / "a.zarr", name)[:, :, 5:], GREY[:, :, 5:])
    assert not shown(tmp_path / "a.zarr", name)[:, :, :5].any()


def test_a_float_that_is_missing_is_read_as_xarray_writes_it_in_zarr_3(tmp_path: Path) -> None:
    samples = GREY.astype(np.float32)
    samples[:, :, :5] = -9999
    array = zarr.create_array(tmp_path / "a.zarr", data=samples)
    array.attrs["_FillValue"] = base64.b64encode(struct.pack("<d", -9999.0)).decode()
    assert np.array_equal(shown(tmp_path / "a.zarr", "array")[:, :, 5:], GREY[:, :, 5:])
    assert not shown(tmp_path / "a.zarr", "array")[:, :, :5].any()


MAPPED: list[Any] = [
    pytest.param(MAP, np.floor(MAP[GREY[:1]] * 255 + 0.5), id="colours"),
    pytest.param(FALLING, 255 - GREY[:1], id="a falling grey"),
]


@pytest.mark.parametrize(("table", "expected"), MAPPED)
def test_an_indexed_image_of_matlab_has_the_colours_of_its_map(
    tmp_path: Path, table: np.ndarray, expected: np.ndarray
) -> None:
    still = GREY[0]
    scipy.io.savemat(tmp_path / "a.mat", {"X": still, "map": table})
    scipy.io.savemat(tmp_path / "b.mat", {"X": still + 1.0, "map": table})  # floats count from 1
    mat73(tmp_path / "c.mat", X=still, map=table)
    for name in "abc":
        assert np.array_equal(shown(tmp_path / f"{name}.mat", "X"), expected)
    movie = np.zeros((1, 2), dtype=[("cdata", object), ("colormap", object)])
    movie[0, 0]["cdata"], movie[0, 0]["colormap"] = still, table
    movie[0, 1]["cdata"], movie[0, 1]["colormap"] = np.moveaxis(COLOUR[0], 0, -1), np.zeros((0, 0))
    scipy.io.savemat(tmp_path / "d.mat", {"mov": movie})
    assert np.array_equal(shown(tmp_path / "d.mat", "mov/0/cdata"), expected)
    assert np.array_equal(shown(tmp_path / "d.mat", "mov/1/cdata")[0], np.moveaxis(COLOUR[0], 0, -1))


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (GREY[0].astype(np.uint16) + 2, f"numbers up to {int(GREY[0].max()) + 2}, its map 256 colours"),
        (GREY[0] / 255, "no whole numbers"),
    ],
)
def test_numbers_that_a_map_of_matlab_has_not_are_refused(tmp_path: Path, samples: np.ndarray, said: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"X": samples, "map": MAP})
    with pytest.raises(SourceError, match=said):
        probe(tmp_path / "a.mat", "X")


def test_logical_arrays_of_matlab_are_no_images(tmp_path: Path) -> None:
    masks = np.moveaxis(GREY > 100, 0, -1)
    scipy.io.savemat(tmp_path / "a.mat", {"x": masks, "scan": {"x": masks}})
    mat73(tmp_path / "b.mat", x=masks.astype(np.uint8))
    with h5py.File(tmp_path / "b.mat", "a") as file:
        file["x"].attrs["MATLAB_class"] = np.bytes_("logical")
    for file_name, name in (("a.mat", "x"), ("a.mat", "scan/x"), ("b.mat", "x")):
        with pytest.raises(SourceError, match=rf"no array of images named '{name}': it is bool \[4, 48, 32\]"):
            probe(tmp_path / file_name, name)
