"""Read NumPy's files: .npy, one array, and .npz, several.

Python objects in them are never loaded.
"""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from usjepa.cache.sources.formats.arrays.base import ArrayReader, Arrays, Part
from usjepa.cache.sources.formats.plausible import require_room

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.sources.formats.arrays.sets import Samples

_ENDING = ".npy"
_OBJECTS = "it holds Python objects, which are never loaded; save an array of numbers"


class NpyReader(ArrayReader):
    """Read an array, mapped from its file."""

    name = "npy"
    version = 2
    title = "NumPy's NPY"
    endings = (_ENDING,)
    container = False

    def open(self, file: Path) -> Arrays:
        """Return the array under the file's name."""
        with file.open("rb") as opened:
            shape, dtype = _header(opened)
            start = opened.tell()
        if dtype.hasobject:
            raise ValueError(_OBJECTS)
        nbytes, held = math.prod(shape) * dtype.itemsize, file.stat().st_size - start
        if held < nbytes:
            raise ValueError(f"it is cut short: it should hold {nbytes:,} bytes of samples and holds {held:,}")
        return Arrays({file.stem: np.load(file, mmap_mode="r" if nbytes else None, allow_pickle=False)})


class NpzReader(ArrayReader):
    """Read the arrays of an archive of NumPy, one after the other; those of Python objects are passed over."""

    name = "npz"
    version = 2
    title = "NumPy's NPZ"
    endings = (".npz",)

    def open(self, file: Path) -> Arrays:
        """Return the arrays; ValueError where one claims more than its bytes hold."""
        archive = zipfile.ZipFile(file)
        loaded: dict[str, NDArray[Any]] = {}
        """The array that was asked for last."""

        def lazily(name: str) -> Samples | None:
            with archive.open(name) as opened:
                shape, dtype = _header(cast("BinaryIO", opened))
            if dtype.hasobject:
                return None
            held = archive.getinfo(name).file_size
            require_room(max(held, math.prod(shape) * dtype.itemsize), file)
            if math.prod(shape) * dtype.itemsize > held:
                raise ValueError(f"{name} is cut short: {held:,} bytes for {dtype} {list(shape)}")

            def part(key: Any) -> Any:
                if name not in loaded:
                    loaded.clear()
                    with archive.open(name) as opened:
                        loaded[name] = np.lib.format.read_array(opened, allow_pickle=False)
                return loaded[name][key]

            return Part(shape, dtype, part)

        names = [name for name in archive.namelist() if name.endswith(_ENDING)]
        try:
            read = {name.removesuffix(_ENDING): lazily(name) for name in names}
            found = {name: item for name, item in read.items() if item is not None}
            if read and not found:
                raise ValueError(_OBJECTS)
            return Arrays(found, archive.close)
        except BaseException:
            archive.close()
            raise


def _header(opened: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array; ValueError where it is none."""
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    if any(edge < 0 for edge in shape):
        raise ValueError(f"its header claims axes of {list(shape)}")
    return shape, dtype
