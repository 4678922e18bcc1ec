"""Show a data set as the HDF5 Image and Palette Specification (1.2) asks.

What its attributes say is applied: white is zero, palettes, the order of colours, the corner that rows begin at, a
transparent value (black); and of CF, which netCDF follows, the value of what is missing and a negative factor. A range
of values (`IMAGE_MINMAXRANGE`) is not: `depth.py` scales by the samples. What is said and not understood is an error of
that data set: never are its numbers shown as they are instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.sources.formats.arrays.base import shown
from usjepa.cache.sources.formats.depth import Span, needs_span, to_uint8

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

_COLOURS = 3
_COLOURS_AT = {"INTERLACE_PIXEL": -1, "INTERLACE_LINE": -2, "INTERLACE_PLANE": -3}
"""Value of INTERLACE_MODE -> axis that counts the colours, from the last one."""
_FLIPS = {"": (False, False), "UL": (False, False), "LL": (True, False), "UR": (False, True), "LR": (True, True)}
"""Value of DISPLAY_ORIGIN, the corner of the first sample -> whether rows and columns run backwards."""
_HIDDEN = ("IMAGE_TRANSPARENCY", "_FillValue", "missing_value")
_MOST_ENTRIES = 1 << 16


class Picture:
    """A data set with its colours last; `show` applies the rest of what its attributes say."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.dtype: np.dtype[Any] = dataset.dtype
        self.shape: tuple[int, ...] = dataset.shape or ()
        self._told: dict[str, Any] = _told(dataset) if len(dataset.attrs) else {}
        self._table: NDArray[np.uint8] | None = None
        self._colours_at = _colours_at(self._kind, self._text("INTERLACE_MODE"), self.shape)
        if self._colours_at is not None:
            rest = [edge for axis, edge in enumerate(self.shape, -len(self.shape)) if axis != self._colours_at]
            self.shape = (*rest, _COLOURS)

    def __getitem__(self, key: Any) -> Any:
        samples = self.dataset[key]
        return samples if self._colours_at is None else np.moveaxis(samples, self._colours_at, -1)

    @property
    def is_told(self) -> bool:
        """Whether attributes say how it is shown."""
        return bool(self._told)

    @property
    def needs_span(self) -> bool:
        """Whether a frame can only be shown once the whole data set has been seen."""
        return not self._is_indexed and self._kind != "IMAGE_BITMAP" and needs_span(self.dtype)

    def show(self, frame: NDArray[Any], span: Span | None) -> NDArray[np.uint8]:
        """Return a frame as stored, colours last, in 8 bits: [H, W] or [H, W, 3]; ValueError where it can't be told."""
        if not self._told:
            return shown(to_uint8(frame, span))
        self._require_understood()
        frame = _flat(frame)
        hidden = self._is_hidden(frame)
        if hidden is not None and span is not None:
            frame = np.where(hidden, frame.dtype.type(span.low), frame)
        if self._is_indexed:
            picture = self._looked_up(frame)
        else:
            picture = shown(to_uint8(frame != 0 if self._kind == "IMAGE_BITMAP" else frame, span))
            if self._is_inverted(picture):
                picture = np.asarray(255 - picture, np.uint8)
        if hidden is not None:
            picture = np.where(hidden if picture.ndim == hidden.ndim else hidden[..., None], np.uint8(0), picture)
        rows, columns = _FLIPS[self._text("DISPLAY_ORIGIN")]
        return np.ascontiguousarray(picture[:: -1 if rows else 1, :: -1 if columns else 1])

    def intensities(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Return the samples of a frame that are shown, in one line where some are not."""
        frame = _flat(frame)
        hidden = self._is_hidden(frame)
        return frame if hidden is None else frame[~hidden]

    def _is_hidden(self, frame: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return which samples of a grey frame are transparent, or were never written (CF); None where none can be."""
        told = [np.ravel(self._told[name]) for name in _HIDDEN if name in self._told]
        numbers = [values.astype(np.float64) for values in told if values.dtype.kind in "iuf"]
        if not numbers or frame.ndim != 2:
            return None
        values = np.concatenate(numbers)
        if frame.dtype.kind != "f":
            kept = np.iinfo(frame.dtype)
            values = values[(values >= kept.min) & (values <= kept.max)]
        with np.errstate(over="ignore"):
            hidden = np.isin(frame, values.astype(frame.dtype))
        return hidden if hidden.any() else None

    @property
    def _kind(self) -> str:
        return self._text("IMAGE_SUBCLASS")

    @property
    def _is_indexed(self) -> bool:
        """Whether samples are numbers of entries; without a palette, writers call grey images indexed too."""
        return "PALETTE" in self._told and self._kind in ("IMAGE_INDEXED", "")

    def _text(self, name: str) -> str:
        return _text(self._told.get(name, ""))

    def _require_understood(self) -> None:
        """Raise ValueError where attributes say something else than what is applied."""
        model, origin, order = (self._text(name) for name in ("IMAGE_COLORMODEL", "DISPLAY_ORIGIN", "INTERLACE_MODE"))
        if origin not in _FLIPS:
            raise ValueError(f"its DISPLAY_ORIGIN is {origin}, which is not read")
        if self._kind != "IMAGE_TRUECOLOR":
            return
        if model not in ("", "RGB"):
            raise ValueError(f"its colours are {model} by IMAGE_COLORMODEL, which is not read")
        if self._colours_at is None:
            shape = list(self.shape)
            raise ValueError(f"its colours are {order or 'stored in an order that is not told'}, and its axes {shape}")

    def _is_inverted(self, picture: NDArray[np.uint8]) -> bool:
        """Return whether 0 is white; a factor that turns large into small does the same (CF, `scale_factor`)."""
        white = _number(self._told.get("IMAGE_WHITE_IS_ZERO", 0), "IMAGE_WHITE_IS_ZERO")
        falls = _number(self._told.get("scale_factor", 1), "scale_factor") < 0
        if white not in (0, 1) or (white and picture.ndim == _COLOURS):
            raise ValueError(f"its IMAGE_WHITE_IS_ZERO is {white:g}, of samples {list(picture.shape)}")
        return bool(white) != falls

    def _looked_up(self, numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the colours of palette numbers, one plane where all are grey."""
        if self._table is None:
            self._table = _palette(self.dataset, self._told["PALETTE"])
        if numbers.ndim != 2 or numbers.dtype.kind not in "ui":
            raise ValueError(f"its PALETTE is for numbers of entries, its samples are {self.dtype} {list(self.shape)}")
        if numbers.min() < 0 or numbers.max() >= len(self._table):
            raise ValueError(f"its samples reach to {numbers.max()}, its palette has {len(self._table)} entries")
        is_grey = (self._table == self._table[:, :1]).all()
        colours: NDArray[np.uint8] = self._table[:, 0][numbers] if is_grey else self._table[numbers]
        return colours


def _flat(frame: NDArray[Any]) -> NDArray[Any]:
    """Return a frame of one channel without the axis that counts it."""
    return frame[..., 0] if frame.ndim == _COLOURS and frame.shape[2] == 1 else frame


def _told(dataset: h5py.Dataset) -> dict[str, Any]:
    """Return the attributes that say how a data set is shown."""
    names = (
        *("IMAGE_SUBCLASS", "IMAGE_WHITE_IS_ZERO", "IMAGE_COLORMODEL", "IMAGE_TRANSPARENCY"),
        *("INTERLACE_MODE", "DISPLAY_ORIGIN", "PALETTE", "scale_factor", "_FillValue", "missing_value"),
    )
    return {name: dataset.attrs[name] for name in names if name in dataset.attrs}


def _colours_at(kind: str, order: str, shape: tuple[int, ...]) -> int | None:
    """Return which axis counts colours, from the last one; None where that is not told, or is not true."""
    if kind not in ("IMAGE_TRUECOLOR", "") or len(shape) not in (3, 4):
        return None
    places = [axis for axis in (-3, -2, -1) if shape[axis] == _COLOURS]
    if order:
        return _COLOURS_AT.get(order) if _COLOURS_AT.get(order) in places else None
    return places[0] if kind and len(places) == 1 else None


def _palette(dataset: h5py.Dataset, value: Any) -> NDArray[np.uint8]:
    """Return the entries [entries, 3] of the default palette, the first; ValueError where they are no RGB in bytes."""
    import h5py

    first = next(iter(np.ravel(value)), None)
    try:
        item = dataset.file[first] if isinstance(first, h5py.Reference) and first else None
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"its PALETTE leads nowhere: {error}") from error
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
        raise ValueError("its PALETTE refers to no data set of this file")
    model, form = (_text(item.attrs.get(name, "")) for name in ("PAL_COLORMODEL", "PAL_TYPE"))
    entries = item.shape[0] if item.ndim == 2 and item.shape[1] == _COLOURS else 0
    if item.dtype != np.uint8 or not 0 < entries <= _MOST_ENTRIES:
        raise ValueError(f"its palette is {item.dtype} {list(item.shape or ())}, not bytes of [entries, 3]")
    if model not in ("", "RGB") or form not in ("", "STANDARD8"):
        raise ValueError(f"its palette is {model or 'RGB'} {form or 'STANDARD8'}; only RGB STANDARD8 is read")
    table: NDArray[np.uint8] = item[()]
    return table


def _text(value: Any) -> str:
    """Return an attribute's text, in capitals: it may be bytes, an array of one element, filled up with zeros."""
    first = next(iter(np.ravel(value)), "")
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return text.partition("\0")[0].strip().upper()


def _number(value: Any, name: str) -> float:
    """Return an attribute's number, which may be an array of one element or text; ValueError where it is none."""
    text = _text(value)
    try:
        return {"TRUE": 1.0, "FALSE": 0.0}[text] if text in ("TRUE", "FALSE") else float(text)
    except ValueError as error:
        raise ValueError(f"its {name} is {text!r}, no number") from error
