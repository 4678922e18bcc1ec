"""Read NIfTI images (.nii, .nii.gz) through nibabel.

The fastest axis runs across, the next one down, as scanners and SimpleITK write ultrasound; further axes count frames,
slices before times. The affine is not applied: it places a volume in a patient, and a viewer of clips shows what is
stored. `scl_slope` and `scl_inter` are applied, then the rule of `depth.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Spacing, spacing_of
from usjepa.cache.sources.formats.volumes.base import Volume, VolumeReader, library, require_volume, stacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_GZIP = b"\x1f\x8b"
_HEADERS = {348: "Nifti1Image", 540: "Nifti2Image"}
"""Length of a header, its first word -> the class that reads it."""
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Of the units of space in `xyzt_units`: metres, millimetres, micrometres. Not given, all programs take millimetres."""
_VECTOR_AXIS = 4
"""Axis that counts the values of a pixel, where there are several."""


class NiftiReader(VolumeReader):
    """Read NIfTI-1 and NIfTI-2 files of one piece."""

    name = "nifti"
    version = 2
    title = "NIfTI"
    endings = (".nii", ".nii.gz")

    def load(self, file: Path) -> Volume:
        """Return the volume; ValueError where its header is wrong or its samples are no frames."""
        nibabel = library("nibabel", "nibabel", self.title)
        logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # it says on stderr what it mends
        with _opened(file) as opened:
            image = _image(nibabel, opened)
            header = image.header
            shape, dtype = tuple(int(edge) for edge in header.get_data_shape()), header.get_data_dtype()
            if dtype.kind == "c":
                raise ValueError(f"its samples are {dtype}, no intensities")
            require_volume(shape, dtype.itemsize, file)
            if image.dataobj.offset < header.sizeof_hdr:
                raise ValueError(f"its samples are said to begin at byte {image.dataobj.offset}, within its header")
            safe_point()
            samples = _colours(np.asanyarray(image.dataobj))
        return Volume(stacked(samples), _spacing(header))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked where it is packed, whatever its ending says."""
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.open(raw) as unpacked:
            yield cast("BinaryIO", unpacked)


def _image(nibabel: Any, opened: BinaryIO) -> Any:
    first = opened.read(4)
    opened.seek(0)
    lengths = [int.from_bytes(first, order) for order in ("little", "big")]
    kind = next((_HEADERS[length] for length in lengths if length in _HEADERS), None)
    if kind is None:
        raise ValueError("its bytes are no NIfTI: the header's length is neither 348 nor 540")
    holder = nibabel.FileHolder(fileobj=opened)
    return getattr(nibabel, kind).from_file_map({"header": holder, "image": holder})


def _colours(stored: NDArray[Any]) -> NDArray[Any]:
    """Return stored samples, axes in reverse, colours last; ValueError where a pixel has other values than colours."""
    if stored.dtype.names:  # R, G, B and perhaps A
        bare = np.stack([stored[name] for name in stored.dtype.names], axis=-1)
        return np.moveaxis(bare.T, 0, -1)
    if stored.ndim > _VECTOR_AXIS and stored.shape[_VECTOR_AXIS] > 1:
        if stored.ndim > _VECTOR_AXIS + 1 or stored.shape[_VECTOR_AXIS] not in (3, 4):
            raise ValueError(f"its axes are {list(stored.shape)}: a pixel has other values than colours")
        return np.moveaxis(stored.T, 0, -1)
    return stored.T


def _spacing(header: Any) -> Spacing | None:
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        return None
    _, across, down, *_ = (float(edge) * unit for edge in header["pixdim"])
    return spacing_of(down, across)
