"""Grow a table's column part by part, in the bytes of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from usjepa.cache.places.spill import Spill

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_TEXT = (1 << 31) - 2
"""Bytes that one array of text holds; Arrow begins another where a text does not fit."""


class GrowingColumn:
    """A column to which values are added. As an array it is the one that `pa.array` makes of all of them at once.

    That it does not consist of the parts matters: Parquet ends a page wherever an array ends.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._full: list[pa.Array] = []
        """Arrays of text that hold no more."""
        self._begin()

    def _begin(self) -> None:
        self._values = Spill()
        self._ends = Spill(bytes(4))
        """Of text: 0, then where each one ends, int32."""

    def add(self, values: NDArray[Any]) -> None:
        """Add values; raises what `pa.array` raises of them."""
        part = pa.array(values, type=self._kind)
        if self._kind == pa.string():
            self._add_texts(part)
        else:
            self._values.add_array(part.to_numpy(zero_copy_only=False))

    def _add_texts(self, part: pa.StringArray) -> None:
        _, ends, text = part.buffers()
        ends_t = np.frombuffer(ends, np.int32)[part.offset : part.offset + len(part) + 1]
        begin, ends_t = int(ends_t[0]), ends_t[1:]
        held = len(self._values)
        fit = int(np.searchsorted(ends_t, _MOST_TEXT - held + begin, "right"))
        if fit:
            self._ends.add_array((ends_t[:fit] + np.int64(held - begin)).astype(np.int32))
            self._values.add(memoryview(text or b"")[begin : ends_t[fit - 1]])
        if fit < len(part):
            self._full.append(self._text())
            self._begin()
            self._add_texts(part.slice(fit))

    def _text(self) -> pa.StringArray:
        count = len(self._ends) // 4 - 1
        return pa.StringArray.from_buffers(count, pa.py_buffer(self._ends.view()), pa.py_buffer(self._values.view()))

    def array(self) -> pa.Array | pa.ChunkedArray:
        """Return all values, in this column's own memory or file: no more can be added."""
        if self._kind == pa.string():
            return pa.chunked_array([*self._full, self._text()])
        return pa.array(self._values.array(np.dtype(self._kind.to_pandas_dtype())), type=self._kind)
