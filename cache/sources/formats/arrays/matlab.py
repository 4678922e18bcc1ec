"""Read MATLAB's files (.mat): those of versions 4 to 7 through SciPy, 7.3 through h5py.

MATLAB counts frames by its last axis: [H, W, N], and [H, W, C, N] in colour. An array of bytes [H, W, 3] is one frame
in colour. What has fewer than 16 rows that way is read as Python would have written it, [N, H, W]. An indexed image
has the colours of the map beside it, as MATLAB itself keeps the two: `X` and `map`, or `cdata` and `colormap`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.formats.arrays.base import ArrayReader, Arrays, Part
from usjepa.cache.sources.formats.arrays.sets import SMALLEST_EDGE
from usjepa.cache.sources.formats.packed.memory import openable
from usjepa.cache.sources.formats.plausible import require_room

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.sources.formats.arrays.sets import Samples

_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK = 512
"""Bytes before the HDF5 file in one of version 7.3; MATLAB says in them what it is."""
_NUMBERS = {
    **dict.fromkeys(("int8", "uint8", "logical"), 1),
    **dict.fromkeys(("int16", "uint16"), 2),
    **dict.fromkeys(("int32", "uint32", "single"), 4),
    **dict.fromkeys(("int64", "uint64", "double"), 8),
}
"""Classes of arrays and the bytes of an element."""
_MAPS = {"X": "map", "cdata": "colormap"}
"""Name of an indexed image -> that of its map: of `imread` and MATLAB's examples, and of `getframe`."""
_DEEPEST = 4
"""Levels of structures that are looked into."""
_MOST_CELLS = 1 << 20
"""Of an array of cells that is looked into."""
_CHUNK_CACHE_NBYTES = 1 << 28


class MatlabReader(ArrayReader):
    """Read arrays of MATLAB, also those in structures: `a.mat::scan/bmode`."""

    name = "matlab"
    version = 4
    title = "a MATLAB file"
    endings = (".mat",)

    def open(self, file: Path) -> Arrays:
        """Return the arrays of numbers, frames first."""
        with file.open("rb") as opened:
            head = opened.read(_USER_BLOCK + len(_HDF5))
        is_hdf5 = _HDF5 in (head[: len(_HDF5)], head[_USER_BLOCK:])
        found, close = _of_hdf5(file) if is_hdf5 else Arrays(_of_mat5(file))
        return Arrays({name: _mapped(name, found) for name in found}, close)


def _mapped(name: str, found: Mapping[str, Samples]) -> Samples:
    """Return an array, or, where a map of colours lies beside it, the colours that its numbers stand for.

    Numbers of integers count from 0, those of floats from 1.
    """
    group, _, own = name.rpartition("/")
    beside = found.get("/".join(filter(None, (group, _MAPS.get(own, "")))))
    item = found[name]
    if own not in _MAPS or beside is None or len(beside.shape) != 2 or beside.shape[1] != 3 or not beside.shape[0]:
        return item
    if len(item.shape) not in (2, 3) or item.shape[2:] == (3,):
        return item
    table = np.floor(np.asarray(beside[()], np.float64).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    grey = bool((table == table[:, :1]).all())
    table = table[:, 0] if grey else table
    first = int(item.dtype.kind == "f")

    def colours(key: Any) -> NDArray[np.uint8]:
        stored = np.asarray(item[key])
        numbers = stored.astype(np.int64) - first
        if (stored != numbers + first).any():
            raise ValueError(f"{name} lies beside a map of colours and holds no whole numbers")
        if numbers.min() < 0 or numbers.max() >= len(table):
            raise ValueError(f"{name} has numbers up to {numbers.max() + first}, its map {len(table)} colours")
        return np.asarray(table[numbers])

    return Part((*item.shape, *table.shape[1:]), np.dtype(np.uint8), colours)


def _of_mat5(file: Path) -> dict[str, Samples]:
    import scipy.io

    wanted = []
    for name, shape, kind in scipy.io.whosmat(file):
        require_room(math.prod(shape) * _NUMBERS.get(kind, 1), file)
        if kind in _NUMBERS or kind in ("struct", "cell"):
            wanted.append(name)
    safe_point()
    read = scipy.io.loadmat(file, variable_names=wanted, struct_as_record=False) if wanted else {}
    found: dict[str, Samples] = {}
    for name in wanted:
        _collect(found, name, read[name], _DEEPEST)
    return found


def _collect(found: dict[str, Samples], name: str, value: Any, levels: int) -> None:
    """Add the arrays of a variable, those in the fields of a structure or cells under `name/field` or `name/0`.

    Complex ones are no images; a message names them.
    """
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size and value.max() <= 1:
        value = value.astype(np.bool_)  # SciPy gives logical ones as bytes, which would be all but black
    if isinstance(value, np.ndarray) and value.dtype.kind in "buifc":
        found[name] = value.transpose(order) if (order := _order(value.shape, value.dtype)) else value
    elif isinstance(value, np.ndarray) and value.dtype == object and levels:
        for place, item in enumerate(value.flat):
            _collect(found, name if value.size == 1 else f"{name}/{place}", item, levels - 1)
    elif hasattr(value, "_fieldnames"):
        for field in value._fieldnames:
            _collect(found, f"{name}/{field}", getattr(value, field), levels)


def _order(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...] | None:
    """Return the order of MATLAB's axes that counts frames first; None where the axes stay."""
    if len(shape) == 3 and min(shape[:2]) >= SMALLEST_EDGE and not (shape[2] == 3 and dtype == np.uint8):
        return (2, 0, 1)
    if len(shape) == 4 and min(shape[:2]) >= SMALLEST_EDGE and shape[2] in (1, 3):
        return (3, 0, 1, 2)
    return None


def _of_hdf5(file: Path) -> Arrays:
    import h5py

    opened = h5py.File(openable(file), "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_NBYTES)
    found: dict[str, Samples] = {}

    def visit(name: str, item: Any) -> None:
        safe_point()
        if not name.startswith("#"):  # where MATLAB keeps what cells refer to
            add(name, item, _DEEPEST)

    def add(name: str, item: Any, levels: int) -> None:
        kind = item.attrs.get("MATLAB_class", b"double") if isinstance(item, h5py.Dataset) else b""
        kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
        if kind == "cell" and item.dtype == h5py.ref_dtype and item.size <= _MOST_CELLS and levels:
            for place, one in enumerate(item[()].T.flat):
                safe_point()
                add(name if item.size == 1 else f"{name}/{place}", opened[one] if one else None, levels - 1)
        elif kind in _NUMBERS and item.shape and "MATLAB_empty" not in item.attrs:
            if item.is_virtual or item.external:
                raise ValueError(f"the bytes of {name!r} lie in other files, which its hash can't vouch for")
            require_room(math.prod(item.shape) * item.dtype.itemsize, file)
            found[name] = _reversed(item, np.dtype(np.bool_) if kind == "logical" else item.dtype)

    try:
        opened.visititems(visit)
    except BaseException:
        opened.close()
        raise
    return Arrays(found, opened.close)


def _reversed(item: Any, dtype: np.dtype[Any]) -> Part:
    """Return a data set whose axes MATLAB wrote in reverse, frames first."""
    shape: tuple[int, ...] = item.shape[::-1]
    order = _order(shape, item.dtype)
    if order is not None:
        return Part((shape[-1], *shape[:-1]), dtype, lambda key: item[key].T)
    return Part(shape, dtype, lambda key: item[()].T if key == () else item[..., key].T)
