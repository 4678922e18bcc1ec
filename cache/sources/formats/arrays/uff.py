"""Read the B-mode of beamformed data in UFF files, as USTB writes them.

The magnitude of each pixel in decibels below the largest of the data set, down to 60. Sectors are scan-converted, so
that depth runs down and the apex is at the top. Channel data and raw signals hold no images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Spacing, spacing_of
from usjepa.cache.sources.formats.arrays.base import ArrayReader, Arrays, Part
from usjepa.cache.sources.formats.packed.memory import openable
from usjepa.cache.sources.formats.plausible import require_frame, require_room

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from usjepa.cache.sources.formats.arrays.sets import Samples

_DYNAMIC_RANGE_DB = 60.0
"""Decibels below the maximum that are shown: what USTB's `plot` takes when it is not told otherwise."""
_BEAMFORMED = "uff.beamformed_data"


class UffReader(ArrayReader):
    """Read UFF files; each set of beamformed data is a source."""

    name = "uff"
    version = 1
    title = "UFF"
    endings = (".uff",)

    def open(self, file: Path) -> Arrays:
        """Return the B-mode of each set of beamformed data; ValueError where there is none."""
        import h5py

        opened = h5py.File(openable(file), "r", locking=False)
        try:
            kinds = _classes(opened)
            found = {name: _bmode(file, opened[name]) for name, kind in kinds.items() if kind == _BEAMFORMED}
            if not found:
                held = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no objects of UFF"
                raise ValueError(f"it holds no beamformed data, but {held}")
        except BaseException:
            opened.close()
            raise
        return Arrays(found, opened.close)


def _classes(file: h5py.File) -> dict[str, str]:
    """Return the objects of a file that are in no other: name -> class."""
    import h5py

    found = {}
    for name in file:
        item = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        kind = item.attrs.get("class", b"") if isinstance(item, h5py.Group) else b""
        if kind := kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind):
            found[name] = kind
    return found


def _numbers(group: h5py.Group, name: str) -> Any:
    """Return a data set of a group, or, of complex numbers, the two that it was written as."""
    import h5py

    item = group.get(name)
    parts = (item.get("real"), item.get("imag")) if isinstance(item, h5py.Group) else (item,)
    for part in parts:
        if not isinstance(part, h5py.Dataset) or part.is_virtual or part.external or part.dtype.kind not in "fiu":
            raise ValueError(f"{group.name}/{name} is missing, or no numbers of this file")
    return parts


def _axis(group: h5py.Group, name: str) -> NDArray[np.float64]:
    (item,) = _numbers(group, name)
    require_frame(1, item.size)
    axis = np.asarray(item[()], np.float64).ravel()
    if axis.size < 2 or not np.isfinite(axis).all() or not axis[0] < axis[-1]:
        raise ValueError(f"{group.name}/{name} does not ascend")
    return axis


def _bmode(file: Path, group: h5py.Group) -> Samples:
    scan = group.get("scan")
    if scan is None or "class" not in scan.attrs:
        raise ValueError(f"{group.name} has no scan, which says where its pixels lie")
    is_sector = "depth_axis" in scan
    down = _axis(scan, "depth_axis" if is_sector else "z_axis")
    across = _axis(scan, "azimuth_axis" if is_sector else "x_axis")
    parts = _numbers(group, "data")
    count = _count(group.name, parts[0].shape, len(down) * len(across))
    require_room(sum(math.prod(part.shape) * part.dtype.itemsize for part in parts), file)
    envelopes = [_envelope(parts, number, (len(across), len(down))) for number in range(count)]
    if len(parts) == 1 and min(float(np.nanmin(one)) for one in envelopes) < 0:
        raise ValueError(f"{group.name} is real and has both signs: radio-frequency data, or decibels already")
    most = max(float(np.nanmax(one)) for one in envelopes)
    if not 0 < most < math.inf:
        raise ValueError(f"{group.name} has no finite magnitude above 0")
    convert = _Sector(down, across) if is_sector else None
    shape = convert.shape if convert else (len(down), len(across))
    spacing = convert.spacing if convert else spacing_of(_step_mm(down), _step_mm(across))

    def frame(key: Any) -> NDArray[np.float32]:
        with np.errstate(divide="ignore", invalid="ignore"):
            decibels = 20 * np.log10(envelopes[key] / most)
        decibels = np.nan_to_num(decibels, nan=-_DYNAMIC_RANGE_DB).clip(-_DYNAMIC_RANGE_DB, 0).astype(np.float32)
        return convert(decibels) if convert else decibels

    return Part((count, *shape), np.dtype(np.float32), frame, spacing, told=True)


def _count(name: str, shape: tuple[int, ...], pixels: int) -> int:
    """Return the frames of [frames, waves, channels, pixels], of which MATLAB leaves out axes of one element."""
    if shape[-1:] == (1,) and shape[:-1].count(pixels) == 1:
        shape = (*shape[:-2], shape[-2])
    if not shape or shape[-1] != pixels:
        raise ValueError(f"{name}/data has axes {list(shape)}, its scan {pixels:,} pixels")
    if len(shape) > 2 and max(shape[1:-1]) > 1:
        raise ValueError(f"{name}/data is not summed over its channels and waves: axes {list(shape)}")
    return math.prod(shape[:-1])


def _envelope(parts: tuple[Any, ...], number: int, turned: tuple[int, int]) -> NDArray[Any]:
    """Return the magnitude of a frame, [depth, width]; pixels lie depth first."""
    safe_point()
    planes = [np.asarray(part[number] if part.ndim > 1 else part[()], np.float64).reshape(turned).T for part in parts]
    return np.hypot(*planes) if len(planes) > 1 else planes[0]


def _step_mm(axis: NDArray[np.float64]) -> float:
    return float(axis[-1] - axis[0]) / (len(axis) - 1) * 1000


class _Sector:
    """Convert beams [depth, angle] to a picture; as many rows as a beam has samples, at most 2,048."""

    def __init__(self, depths: NDArray[np.float64], angles: NDArray[np.float64]) -> None:
        right, left = (depths[-1] * math.sin(angle) for angle in (angles[-1], angles[0]))
        top = depths[0] * math.cos(max(abs(angles[0]), abs(angles[-1])))
        step = (depths[-1] - top) / (min(len(depths), 2048) - 1)
        z, x = np.meshgrid(
            np.arange(top, depths[-1] + step / 2, step), np.arange(left, right + step / 2, step), indexing="ij"
        )
        rows = np.interp(np.hypot(x, z), depths, np.arange(len(depths)), -1e6, 1e6)
        columns = np.interp(np.arctan2(x, z), angles, np.arange(len(angles)), -1e6, 1e6)
        self._rows, self._columns = rows.astype(np.float32), columns.astype(np.float32)
        self.shape = z.shape
        self.spacing: Spacing | None = spacing_of(step * 1000, step * 1000)

    def __call__(self, beams: NDArray[np.float32]) -> NDArray[np.float32]:
        shown = cv2.remap(
            beams,
            self._columns,
            self._rows,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=-_DYNAMIC_RANGE_DB,
        )
        return np.asarray(shown, np.float32)
