"""Tell the arrays of a file that hold images from those beside them.

Which axes count frames, rows, columns and colours shows in the shape, or in the samples (`turned.py`). What is left out
unless a recipe names it (`cache.hdf5`): channel and radio-frequency data, label maps, envelopes and the like where the
file has a B-mode, told by their names and by their samples, and arrays that count frames by another axis.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from usjepa.cache.sources.formats.arrays.turned import axis_of_frames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

READ = "[N, H, W], [N, H, W, C], [N, C, H, W] or [H, W] of uint8, uint16, int16 or float, H and W at least 16"

_DTYPES = {"uint8", "uint16", "int16", "float16", "float32", "float64"}
SMALLEST_EDGE = 16
"""Pixels below which an axis counts something else than rows or columns."""
_CHANNELS = (1, 3, 4)
_LISTED = 6
"""Data sets that a message lists."""

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_LABELS = {
    "mask",
    "masks",
    "label",
    "labels",
    "seg",
    "segmentation",
    "segmentations",
    "gt",
    "annotation",
    "annotations",
}
_SIGNALS = {"rf", "iq", "real", "imag", "rfdata", "iqdata", "channeldata", "channelsdata", "prebeamformed"}
_DERIVED = {"envelope", "envelopes", "env", "beamformed", "aligned", "doppler", "velocity", "strain", "attenuation"}
_IMAGES = {"image", "images", "img", "imgs", "frame", "frames", "bmode", "video", "clip", "picture", "us", "scan"}
_CONVERTED = "_sc"
"""What zea adds to the name of the B-mode as a screen shows it."""
_FEW_LEVELS = 8
"""Levels below which integers beside an image say what lies where."""
_LAGS = 16
"""Samples along depth within which radio-frequency data swing to the other sign and back."""
_NARROW, _ALIKE = 4, 2.5
"""Of an array whose axes are in another order: how much shorter that of frames is, and how alike the two others are."""
_SWING = -0.3
"""Autocorrelation below which samples swing: speckle and anatomy stay above, a carrier comes near -1."""


class Samples(Protocol):
    """An array in a file, of which a part is read when it is asked for: a data set of HDF5, an array of NumPy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its axes; an empty data set of HDF5 has none."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its samples."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return a part: `[number]` along the first axis, `[()]` for all."""
        ...


class Axes(NamedTuple):
    """How the axes of a data set are to be read."""

    frames: int
    height: int
    width: int
    first: bool
    """Whether colours come before rows."""
    single: bool
    """Whether it is one frame, without an axis that counts them."""


def axes_of(item: Samples) -> Axes | None:
    """Return how an array is read as frames; None when it holds no images."""
    if item.dtype.name not in _DTYPES:
        return None
    shape: tuple[int, ...] = item.shape or ()
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS):
        axes = Axes(1, shape[0], shape[1], first=False, single=True)
    elif len(shape) == 3 or (len(shape) == 4 and shape[3] in _CHANNELS and shape[2] >= SMALLEST_EDGE):
        axes = Axes(shape[0], shape[1], shape[2], first=False, single=False)
    elif len(shape) == 4 and shape[1] in _CHANNELS:
        axes = Axes(shape[0], shape[2], shape[3], first=True, single=False)
    else:
        return None
    return axes if axes.frames > 0 and min(axes.height, axes.width) >= SMALLEST_EDGE else None


def frame_of(item: Samples, axes: Axes, number: int) -> NDArray[Any]:
    """Return a frame as stored, colours last."""
    frame: NDArray[Any] = item[()] if axes.single else item[number]
    return np.moveaxis(frame, 0, -1) if axes.first else frame


def image_sets(found: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return the arrays that could hold images, by name in code point order."""
    images = {name: item for name, item in found.items() if axes_of(item) is not None}
    # Tables have two axes too: beside arrays with more, those with two are tables.
    flat = {name for name, item in images.items() if len(item.shape) == 2}
    return {name: images[name] for name in sorted(images) if name not in flat or len(flat) == len(images)}


def doubts_of(sets: Mapping[str, Samples]) -> dict[str, str]:
    """Return which data sets are left out unless they are named: name -> why."""
    doubts = {name: reason for name, item in sets.items() if (reason := _by_itself(name, item))}
    images = {
        name: item
        for name, item in sets.items()
        if name not in doubts and not _own_words(name) & _DERIVED and not _has_few_levels(item)
    }
    if not images:
        return doubts
    first = next(iter(images))
    for name, item in sets.items():
        if name in doubts:
            continue
        if f"{name}{_CONVERTED}" in images:
            doubts[name] = f"not scan-converted, lies beside {name}{_CONVERTED}"
            continue
        if derived := _own_words(name) & _DERIVED:
            doubts[name] = f"{min(derived)} data, lies beside {first}"
        elif _has_few_levels(item) and any(_are_alike(item, image) for image in images.values()):
            doubts[name] = f"fewer than {_FEW_LEVELS} levels, lies beside {first}: a label map"
    return doubts


def without_images(found: Mapping[str, Samples]) -> str:
    """Return what to say of a file that holds no images: what it does hold."""
    held = [f"{name} {item.dtype} {list(item.shape or ())}" for name, item in found.items()]
    more = f" and {len(held) - _LISTED} more" if len(held) > _LISTED else ""
    what = f"it has {', '.join(held[:_LISTED])}{more}" if held else "it is empty"
    return f"it holds no data set of images ({READ}): {what}"


def unwanted(doubts: Mapping[str, str]) -> str:
    """Return what to say of a file whose images were all left out."""
    left_out = "; ".join(f"{name} ({reason})" for name, reason in doubts.items())
    return f"none of its data sets is wanted, or looks like images: {left_out}. Name one with cache.hdf5"


def _by_itself(name: str, item: Samples) -> str:
    """Return why a data set holds no images whatever lies beside it; empty where nothing says so."""
    words = _own_words(name)
    if labels := _words(name) & _LABELS:
        return f"{min(labels)}, by its name"
    if signals := words & _SIGNALS:
        return f"{min(signals)} data, by its name"
    if len(item.shape) == 2 and item.dtype.kind == "f" and not words & _IMAGES:
        return "two axes, as a table has"
    if _would_be_strips(item):
        rows, columns = item.shape[1:]
        return f"{item.shape[0]} strips of {rows} x {columns}: frames seem to lie along another axis; transpose it"
    if item.dtype.kind in "if" and _swings(item):
        return "radio-frequency data: its samples swing about 0"
    if axis := _other_axis(item):
        order = ", ".join("N" if place == axis else str(edge) for place, edge in enumerate(item.shape))
        return f"around the scan nothing changes along N of [{order}]: frames seem to lie there; transpose it"
    return ""


def _own_words(name: str) -> set[str]:
    return _words(name.rpartition("/")[2])


def _words(name: str) -> set[str]:
    """Return the words of a data set's own name and of the group it lies in, lower case, and the name as one."""
    parts = name.split("/")[-2:]
    words = {word.lower() for part in parts for word in _WORDS.findall(part)}
    return words | {re.sub(r"[^a-z0-9]", "", part.lower()) for part in parts}


def _middle(item: Samples) -> NDArray[Any]:
    """Return the middle frame of a data set, one channel of it."""
    axes = axes_of(item)
    assert axes is not None
    frame = frame_of(item, axes, axes.frames // 2)
    return frame[..., 0] if frame.ndim == 3 else frame


def _has_few_levels(item: Samples) -> bool:
    return item.dtype.kind in "ui" and len(np.unique(_middle(item))) < _FEW_LEVELS


def _are_alike(item: Samples, other: Samples) -> bool:
    """Return whether two data sets have as many frames of the same size."""
    one, two = axes_of(item), axes_of(other)
    return one is not None and two is not None and one[:3] == two[:3]


def _would_be_strips(item: Samples) -> bool:
    """Return whether an array of three axes looks as if frames were counted by one that is read as rows or columns."""
    axes = axes_of(item)
    if axes is None or axes.single or len(item.shape) != 3:
        return False
    frames, edge, other = sorted(item.shape)
    return frames != item.shape[0] and frames * _NARROW <= edge and other <= _ALIKE * edge


def _other_axis(item: Samples) -> int:
    """Return which axis seems to count frames; 0 for the first, also where it can't be another or a format tells."""
    axes = axes_of(item)
    if axes is None or axes.single or len(item.shape) != 3 or getattr(item, "told", False):
        return 0
    rows = item.shape[0]  # of pictures, if the first axis counts no frames
    alike = [max(rows, edge) <= _ALIKE * min(rows, edge) for edge in item.shape[1:]]
    if rows < SMALLEST_EDGE or not any(alike):
        return 0
    try:
        axis = axis_of_frames(rows, lambda number: frame_of(item, axes, number))
    except Exception:  # noqa: BLE001 - what is damaged is named when it is counted, and costs no array beside it
        return 0
    return axis if axis and alike[2 - axis] else 0


def _swings(item: Samples) -> bool:
    """Return whether samples swing about zero along one of the axes, as an echo's carrier does."""
    frame = np.nan_to_num(_middle(item).astype(np.float64), posinf=0, neginf=0)
    spread = float(frame.std())
    if spread == 0 or frame.min() >= 0 or abs(float(frame.mean())) > 0.2 * spread:
        return False
    return min(_least_correlation(frame), _least_correlation(frame.T)) < _SWING


def _least_correlation(frame: NDArray[np.float64]) -> float:
    """Return the smallest autocorrelation along the first axis."""
    energy = float(np.square(frame).sum())
    lags = range(1, min(_LAGS, max(frame.shape[0] // 8, 1)) + 1)
    return min((float((frame[lag:] * frame[:-lag]).sum()) / energy for lag in lags), default=math.inf)
