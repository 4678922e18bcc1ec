"""Read arrays of Zarr 2 and 3, and the finest level of OME-Zarr.

A store is a folder `x.zarr`, or the zip of one. The folder is one source's file: every file in it is part of the
content. Where OME-Zarr names its axes, all before rows and columns count frames; three channels of bytes are colours.
What turns bright into dark is applied, `inverted` of OME-Zarr and a negative `scale_factor` (CF); windows are not. The
value of what is missing (CF, as xarray keeps it) is black and takes no levels.
"""

from __future__ import annotations

import base64
import math
import os
import struct
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from usjepa.cache.errors import NoImageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Spacing, spacing_of
from usjepa.cache.sources.formats.arrays.base import ArrayReader, Arrays, Part
from usjepa.cache.sources.formats.plausible import require_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usjepa.cache.sources.formats.arrays.sets import Samples

_ROOT = "array"
"""Name of the array where a store is one and no group."""
_OURS = "usjepa"
"""Attribute of our own stores."""
_OF_XARRAY = "_ARRAY_DIMENSIONS"
"""Attribute by which xarray names the axes in Zarr 2."""
_COLOURS = ("FF0000", "00FF00", "0000FF")
"""Red, green and blue, as OME-Zarr writes them."""
_MILLIMETRES = {"micrometer": 0.001, "millimeter": 1.0, "centimeter": 10.0, "meter": 1000.0}


class ZarrReader(ArrayReader):
    """Read Zarr stores on disk."""

    name = "zarr"
    version = 4
    title = "Zarr"
    endings = (".zarr", ".zarr.zip")
    folder: ClassVar[bool] = True

    def parts(self, file: Path) -> list[Path]:
        """Return the files of a store; ValueError where one is a link."""
        return _files(file) if file.is_dir() else []

    def open(self, file: Path) -> Arrays:
        """Return the arrays; NoImageError for a store of our own."""
        import zarr
        from zarr.storage import LocalStore, ZipStore

        sizes = [one.stat().st_size for one in _files(file)] if file.is_dir() else [file.stat().st_size]
        if not sizes:
            raise ValueError("it is an empty folder")
        store = LocalStore(file, read_only=True) if file.is_dir() else ZipStore(file, read_only=True)
        try:
            opened = zarr.open(store, mode="r")
        except FileNotFoundError as error:
            advice = "" if file.is_dir() else "; zip what lies in the folder, not the folder itself"
            raise ValueError(f"it holds no array and no group of Zarr at its top{advice}") from error
        safe_point()
        if _OURS in opened.attrs:
            raise NoImageError("a store that usjepa-cache built, whose frames are prepared already")
        arrays = {_ROOT: opened} if isinstance(opened, zarr.Array) else _members(opened)
        for array in arrays.values():
            require_room(math.prod(array.shape) * array.dtype.itemsize, file, sum(sizes))
        levels = {} if isinstance(opened, zarr.Array) else _finest(opened)
        return Arrays(_images(arrays, levels), store.close)


def _files(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        safe_point()
        for name in (*folders, *names):
            if os.path.islink(os.path.join(place, name)):
                raise ValueError(f"{name!r} in it is a link, which its hash can't vouch for")
        found += [Path(place, name) for name in names]
    return sorted(found)


def _members(group: Any) -> dict[str, Any]:
    import zarr

    return {name: member for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)}


class _Finest(NamedTuple):
    """The finest level of a multiscale image."""

    axes: list[str]
    spacing: Spacing | None
    colours: tuple[str, ...]
    """Of each channel, as its colour is written; empty where none is."""
    inverted: frozenset[bool]
    """Whether channels are shown inverted: one answer, or two where they differ."""


def _finest(group: Any) -> dict[str, _Finest]:
    """Return the finest level of each multiscale image by its path."""
    import zarr

    groups = {"": group, **{name: item for name, item in group.members(max_depth=None) if isinstance(item, zarr.Group)}}
    found = {}
    for place, item in groups.items():
        attributes: Any = item.attrs.asdict()
        attributes = attributes.get("ome", attributes)
        channels = (attributes.get("omero") or {}).get("channels") or []
        colours = tuple(str(channel.get("color", "")).lstrip("#").upper() for channel in channels)
        inverted = frozenset(bool(channel.get("inverted")) for channel in channels)
        for scale in attributes.get("multiscales") or []:
            level = scale["datasets"][0]
            axes = scale.get("axes") or [{"name": name} for name in "tczyx"]
            axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
            path = str(PurePosixPath(place, str(level["path"])))
            found[path] = _Finest([str(axis["name"]) for axis in axes], _spacing(axes, level), colours, inverted)
    return found


def _spacing(axes: list[dict[str, Any]], level: dict[str, Any]) -> Spacing | None:
    steps = next((t["scale"] for t in level.get("coordinateTransformations", ()) if t.get("type") == "scale"), None)
    units = [_MILLIMETRES.get(str(axis.get("unit"))) for axis in axes[-2:]]
    if steps is None or len(steps) != len(axes) or None in units:
        return None
    down, across = (float(step) * float(unit or 0) for step, unit in zip(steps[-2:], units, strict=True))
    return spacing_of(down, across)


def _images(arrays: Mapping[str, Any], levels: Mapping[str, _Finest]) -> dict[str, Samples]:
    """Return arrays by name: of multiscale images the finest level, frames first; no coarser one, and no labels."""
    images = {str(PurePosixPath(path).parent) for path in levels}
    found: dict[str, Samples] = {}
    for name, array in arrays.items():
        if name in levels:
            found[name] = _level(array, levels[name])
        elif str(PurePosixPath(name).parent) not in images:
            falls, hidden = _falls(array), _hidden(array)
            part = Part(array.shape, array.dtype, array.__getitem__, inverted=falls, hidden=hidden)
            found[name] = part if falls or hidden else array
    return {name: item for name, item in found.items() if "labels" not in PurePosixPath(name).parts[:-1]}


def _falls(array: Any) -> bool:
    """Return whether large samples stand for small values."""
    factor = array.attrs.get("scale_factor", 1)
    return isinstance(factor, int | float) and factor < 0


def _hidden(array: Any) -> tuple[float, ...]:
    """Return the values that stand for what was never written (CF), as xarray keeps them.

    In Zarr 2 that is the array's fill value; in Zarr 3 attributes have it, floats as the base64 of their bytes.
    """
    found = [array.attrs.get(name) for name in ("_FillValue", "missing_value")]
    if array.metadata.zarr_format == 2 and _OF_XARRAY in array.attrs:
        found.append(array.fill_value)
    return tuple(value for one in found if (value := _number(one)) is not None)


def _number(value: object) -> float | None:
    """Return a value as a number; None where it is none, or NaN, which is black anyway."""
    try:
        if isinstance(value, str):
            value = struct.unpack("<d", base64.b64decode(value, validate=True))[0]
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, struct.error):
        return None
    return None if math.isnan(number) else number


def _level(array: Any, finest: _Finest) -> Samples:
    """Return the finest level of an image as [N, H, W] or [N, H, W, 3]."""
    axes = finest.axes
    if axes[-2:] != ["y", "x"] or len(axes) != array.ndim:
        raise ValueError(f"its axes are {', '.join(axes)}, and {array.ndim} in its array: not ..., y, x")
    channel = axes.index("c") if "c" in axes else None
    counts = array.shape[:-2]
    coloured = channel is not None and counts[channel] == 3 and array.dtype == np.uint8
    leading = tuple(n for axis, n in enumerate(counts) if not (coloured and axis == channel))
    order = _order(finest.colours)
    if len(finest.inverted) > 1:
        raise ValueError("some of its channels are inverted (omero), others are not")

    def frame(key: Any) -> Any:
        place: list[Any] = list(np.unravel_index(0 if key == () else int(key), leading)) if leading else []
        if not coloured:
            return array[tuple(place)]
        place.insert(int(channel or 0), slice(None))
        return np.moveaxis(array[tuple(place)][order], 0, -1)

    shape = (math.prod(leading), *array.shape[-2:], *((3,) if coloured else ()))
    inverted = (True in finest.inverted) != _falls(array)
    return Part(shape, array.dtype, frame, finest.spacing, inverted, told=True, hidden=_hidden(array))


def _order(colours: Sequence[str]) -> list[int]:
    """Return the channels that are red, green and blue, which may lie in another order."""
    return [colours.index(colour) for colour in _COLOURS] if sorted(colours) == sorted(_COLOURS) else [0, 1, 2]
