"""HDF5 images: what the attributes of the HDF5 Image Specification say is applied, or the data set is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.formats.arrays.hdf5 import Hdf5Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 20, 24), np.uint8)
COLOUR = RNG.integers(0, 256, (20, 24, 3), np.uint8)
FALLING = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 3, axis=1)
HOT = RNG.integers(0, 256, (256, 3), np.uint8)


def written(path: Path, samples: np.ndarray, palette: np.ndarray | None = None, **attributes: Any) -> Path:
    """Write a data set `x` with the attributes of an image; those that begin with PAL_ are the palette's."""
    with h5py.File(path, "w") as file:
        item = file.create_dataset("x", data=samples)
        item.attrs["CLASS"], item.attrs["IMAGE_VERSION"] = np.bytes_("IMAGE"), np.bytes_("1.2")
        if palette is not None:
            table = file.create_dataset("palettes/0", data=palette)
            table.attrs["CLASS"], table.attrs["PAL_VERSION"] = np.bytes_("PALETTE"), np.bytes_("1.2")
            item.attrs["PALETTE"] = np.array([table.ref], dtype=h5py.ref_dtype)
            for name in [name for name in attributes if name.startswith("PAL_")]:
                table.attrs[name] = attributes.pop(name)
        for name, value in attributes.items():
            item.attrs[name] = value
    return path


def shown(path: Path) -> np.ndarray:
    facts = probe(path, "x")
    assert Hdf5Reader().images(path) == ["x"]
    found = np.stack(frames(path, range(facts.frames), "x"))
    assert facts == FileFacts(*found.shape[:3])
    return found


@pytest.mark.parametrize("value", [np.uint8(1), np.array([1], np.uint8), True, "1", b"true", 1.0])
@pytest.mark.parametrize("kind", ["IMAGE_GRAYSCALE", b"IMAGE_GRAYSCALE\0\0", np.array([b"IMAGE_GRAYSCALE"])])
def test_white_is_zero_is_inverted_however_the_attribute_is_written(tmp_path: Path, value: Any, kind: Any) -> None:
    kind = np.bytes_(kind) if isinstance(kind, bytes) else kind
    path = written(tmp_path / "a.h5", GREY, IMAGE_SUBCLASS=kind, IMAGE_WHITE_IS_ZERO=value)
    assert np.array_equal(shown(path), 255 - GREY)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(GREY.astype(np.uint16) * 16, id="12 bits"),
        pytest.param((GREY.astype(np.int32) * 256 - 32768).astype(np.int16), id="int16"),
        pytest.param(GREY / 255, id="0 to 1"),
    ],
)
def test_white_is_zero_is_inverted_whatever_the_samples(tmp_path: Path, stored: np.ndarray) -> None:
    assert np.array_equal(shown(written(tmp_path / "a.h5", stored, IMAGE_WHITE_IS_ZERO=np.uint8(1))), 255 - GREY)


def test_zero_that_is_black_and_a_range_of_values_change_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.h5", GREY, IMAGE_WHITE_IS_ZERO=np.uint8(0), IMAGE_MINMAXRANGE=np.array([10, 20], np.uint8)
    )
    assert np.array_equal(shown(path), GREY)


def test_a_factor_that_turns_large_into_small_inverts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", GREY, scale_factor=np.array([-0.5]), add_offset=3.0)
    assert np.array_equal(shown(path), 255 - GREY)


def test_a_bitmap_is_black_and_white(tmp_path: Path) -> None:
    bits = GREY // 128
    path = written(tmp_path / "a.h5", bits, IMAGE_SUBCLASS="IMAGE_BITMAP", IMAGE_WHITE_IS_ZERO=np.uint8(1))
    assert np.array_equal(shown(path), 255 - 255 * bits)


@pytest.mark.parametrize("kind", [{}, {"IMAGE_SUBCLASS": np.bytes_("IMAGE_INDEXED")}])
@pytest.mark.parametrize("samples", [GREY, GREY[0], GREY[0][..., None]])
def test_a_palette_gives_the_colours_and_a_grey_one_grey(
    tmp_path: Path, samples: np.ndarray, kind: dict[str, Any]
) -> None:
    numbers = GREY if samples.ndim == 3 and samples.shape[2] > 1 else GREY[:1]
    told = {"PAL_COLORMODEL": np.bytes_("RGB"), "PAL_TYPE": np.bytes_("STANDARD8"), **kind}
    assert np.array_equal(shown(written(tmp_path / "a.h5", samples, HOT, **told)), HOT[numbers])
    assert np.array_equal(shown(written(tmp_path / "b.h5", samples, FALLING, **told)), 255 - numbers)


def test_indexed_without_a_palette_and_grey_with_one_are_grey(tmp_path: Path) -> None:
    """HDF5's own H5IMmake_image_8bit calls every image indexed; a palette of a grey image is there to view it with."""
    assert np.array_equal(shown(written(tmp_path / "a.h5", GREY, IMAGE_SUBCLASS="IMAGE_INDEXED")), GREY)
    assert np.array_equal(shown(written(tmp_path / "b.h5", GREY, HOT, IMAGE_SUBCLASS="IMAGE_GRAYSCALE")), GREY)


BAD_PALETTES: list[Any] = [
    pytest.param(GREY, HOT.astype(np.uint16), {}, r"its palette is uint16 \[256, 3\], not bytes", id="words"),
    pytest.param(GREY, HOT.T, {}, r"its palette is uint8 \[3, 256\], not bytes", id="turned"),
    pytest.param(GREY, HOT[:100], {}, "its samples reach to 255, its palette has 100 entries", id="too short"),
    pytest.param(GREY, HOT, {"PAL_COLORMODEL": "YUV"}, "its palette is YUV STANDARD8", id="YUV"),
    pytest.param(GREY, HOT, {"PAL_TYPE": "RANGEINDEX"}, "its palette is RGB RANGEINDEX", id="ranges"),
    pytest.param(GREY / 255, HOT, {}, r"for numbers of entries, its samples are float64", id="floats"),
    pytest.param(COLOUR, HOT, {}, r"for numbers of entries, its samples are uint8 \[20, 24, 3\]", id="colours"),
    pytest.param(GREY, None, {"PALETTE": "palettes/0"}, "its PALETTE refers to no data set", id="a name"),
    pytest.param(GREY, None, {"PALETTE": h5py.Reference()}, "its PALETTE refers to no data set", id="null"),
    pytest.param(GREY, None, {"PALETTE": h5py.Empty("f")}, "its PALETTE refers to no data set", id="empty"),
]


@pytest.mark.parametrize(("samples", "palette", "told", "said"), BAD_PALETTES)
def test_a_palette_that_is_not_understood_is_refused(
    tmp_path: Path, samples: np.ndarray, palette: np.ndarray | None, told: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "a.h5", samples, palette, **{"IMAGE_SUBCLASS": "IMAGE_INDEXED", **told})
    with pytest.raises(SourceError, match=said):
        probe(path, "x")
    with pytest.raises(SourceError, match=said):
        frames(path, [0], "x")


ORDERS: list[Any] = [
    pytest.param("INTERLACE_PIXEL", lambda colour: colour, id="pixel"),
    pytest.param("INTERLACE_LINE", lambda colour: np.moveaxis(colour, -1, -2), id="line"),
    pytest.param("INTERLACE_PLANE", lambda colour: np.moveaxis(colour, -1, -3), id="plane"),
]


@pytest.mark.parametrize(("order", "stored"), ORDERS)
@pytest.mark.parametrize("kind", [{}, {"IMAGE_SUBCLASS": "IMAGE_TRUECOLOR"}])
def test_colours_are_found_in_every_order(
    tmp_path: Path, order: str, stored: Callable[[np.ndarray], np.ndarray], kind: dict[str, Any]
) -> None:
    still = written(tmp_path / "a.h5", stored(COLOUR), INTERLACE_MODE=np.bytes_(order), **kind)
    assert np.array_equal(shown(still), COLOUR[None])
    clip = np.stack([COLOUR, 255 - COLOUR])
    assert np.array_equal(shown(written(tmp_path / "b.h5", stored(clip), INTERLACE_MODE=order, **kind)), clip)
    if kind:  # the only axis of three
        assert np.array_equal(shown(written(tmp_path / "c.h5", stored(COLOUR), **kind)), COLOUR[None])


def test_three_frames_of_grey_are_no_colours(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", GREY[:3], IMAGE_SUBCLASS="IMAGE_GRAYSCALE", INTERLACE_MODE="INTERLACE_PLANE")
    assert np.array_equal(shown(path), GREY[:3])


@pytest.mark.parametrize(
    ("origin", "flipped"),
    [("UL", GREY), ("LL", GREY[:, ::-1]), ("UR", GREY[:, :, ::-1]), ("LR", GREY[:, ::-1, ::-1])],
)
def test_the_corner_of_the_first_sample_is_where_the_file_says(
    tmp_path: Path, origin: str, flipped: np.ndarray
) -> None:
    assert np.array_equal(shown(written(tmp_path / "a.h5", GREY, DISPLAY_ORIGIN=np.bytes_(origin))), flipped)
    path = written(tmp_path / "b.h5", GREY, HOT, DISPLAY_ORIGIN=origin)
    assert np.array_equal(shown(path), HOT[flipped])


def test_a_transparent_value_is_black(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", GREY, IMAGE_WHITE_IS_ZERO=np.uint8(1), IMAGE_TRANSPARENCY=np.uint32(7))
    assert np.array_equal(shown(path), np.where(GREY == 7, 0, 255 - GREY))


def test_several_values_may_stand_for_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", GREY, missing_value=np.array([7, 9], np.uint8))
    assert np.array_equal(shown(path), np.where(np.isin(GREY, (7, 9)), 0, GREY))


@pytest.mark.parametrize("fill", [np.nan, 1e36, -1, 256, "none"])
def test_a_value_for_what_was_never_written_that_no_sample_can_have_changes_nothing(
    tmp_path: Path, fill: float | str
) -> None:
    assert np.array_equal(shown(written(tmp_path / "a.h5", GREY, _FillValue=fill)), GREY)
    halves = written(tmp_path / "b.h5", (GREY / 255).astype(np.float16), _FillValue=fill)
    assert np.abs(shown(halves).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
@pytest.mark.parametrize(
    ("stored", "fill"),
    [
        pytest.param(GREY, np.uint8(7), id="bytes"),
        pytest.param(GREY.astype(np.int16) * 8, np.array([-32768], np.int16), id="int16"),
        pytest.param((GREY / 255).astype(np.float32), np.float32(9.969209968386869e36), id="netCDF's own, of floats"),
    ],
)
def test_what_was_never_written_is_black_and_takes_no_levels(
    tmp_path: Path, stored: np.ndarray, fill: Any, name: str
) -> None:
    stored = stored.copy()
    stored[0, :5] = stored[2] = fill
    expected = np.where(stored == fill, 0, GREY)
    assert np.array_equal(shown(written(tmp_path / "a.h5", stored, **{name: fill})), expected)
    one_channel = written(tmp_path / "b.h5", stored[..., None], **{name: fill})
    assert np.array_equal(shown(one_channel), expected)


@pytest.mark.parametrize(
    ("samples", "told", "said"),
    [
        pytest.param(GREY, {"DISPLAY_ORIGIN": "XX"}, "its DISPLAY_ORIGIN is XX", id="a corner"),
        pytest.param(GREY, {"IMAGE_WHITE_IS_ZERO": "perhaps"}, "its IMAGE_WHITE_IS_ZERO is 'PERHAPS'", id="no number"),
        pytest.param(GREY, {"IMAGE_WHITE_IS_ZERO": 2}, "its IMAGE_WHITE_IS_ZERO is 2", id="2"),
        pytest.param(COLOUR, {"IMAGE_WHITE_IS_ZERO": 1}, r"of samples \[20, 24, 3\]", id="white colours"),
        pytest.param(
            COLOUR, {"IMAGE_SUBCLASS": "IMAGE_TRUECOLOR", "IMAGE_COLORMODEL": "HSV"}, "its colours are HSV", id="HSV"
        ),
        pytest.param(
            np.moveaxis(COLOUR, -1, 0),
            {"IMAGE_SUBCLASS": "IMAGE_TRUECOLOR", "INTERLACE_MODE": "INTERLACE_PIXEL"},
            r"its colours are INTERLACE_PIXEL, and its axes \[3, 20, 24\]",
            id="another order",
        ),
        pytest.param(
            GREY, {"IMAGE_SUBCLASS": "IMAGE_TRUECOLOR"}, r"an order that is not told, and its axes \[4, 20", id="none"
        ),
    ],
)
def test_attributes_that_are_not_understood_are_refused(
    tmp_path: Path, samples: np.ndarray, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        probe(written(tmp_path / "a.h5", samples, **told), "x")
