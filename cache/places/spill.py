"""Hold bytes that grow, in a temporary file once they are many."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import WriteError
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_HELD = 1 << 18
"""Bytes that stay in memory until there are more."""


class Spill:
    """Bytes that grow at their end. One thread adds to them, then any may read.

    The file has no name, lies where the system keeps temporary ones (`TMPDIR`) and is gone with the process, however
    that ends. Raises WriteError where it can't be written.
    """

    def __init__(self, data: bytes = b"") -> None:
        self._last = bytearray(data)
        """Those that are not in the file."""
        self._file: int | None = None
        """Descriptor, closed when nobody has these bytes any more."""
        self._written = 0

    def __len__(self) -> int:
        return self._written + len(self._last)

    def __reduce__(self) -> tuple[Callable[[bytes], Spill], tuple[bytes]]:
        return Spill, (self.read(0, self._written) + self._last,)

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        if len(data) > _HELD:
            self._write(data)
            return
        self._last += data
        if len(self._last) > _HELD:
            self._write()

    def add_array(self, values: NDArray[Any]) -> None:
        """Add the bytes of values."""
        self.add(np.ascontiguousarray(values).view(np.uint8).data)

    def read(self, first: int, count: int) -> bytes:
        """Return bytes that were added at once."""
        if self._file is None or first >= self._written:
            return bytes(self._last[first - self._written : first - self._written + count])
        return os.pread(self._file, count, first)

    def view(self) -> memoryview:
        """Return all bytes, those in the file as a mapping of it; no more can be added."""
        if self._file is None:
            return memoryview(self._last)
        self._write()
        return memoryview(mmap.mmap(self._file, self._written, access=mmap.ACCESS_READ))

    def array(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return all bytes as values, as `view` does."""
        return np.frombuffer(self.view(), dtype) if len(self) else np.empty(0, dtype)

    def _write(self, more: bytes | bytearray | memoryview = b"") -> None:
        """Write what is held, then more."""
        try:
            if self._file is None:
                with tempfile.TemporaryFile(buffering=0) as file:
                    self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file)
            held, self._last = self._last, bytearray()
            for data in (memoryview(held), memoryview(more)):
                while data:
                    count = os.write(self._file, data)
                    self._written += count
                    data = data[count:]
        except OSError as error:
            raise WriteError(
                f"{tempfile.gettempdir()}: what does not stay in memory can't be written here ({error.strerror}). "
                f"{advice(error)} TMPDIR names another folder."
            ) from error


def spilled(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of the same values, which lies in a temporary file where they are many."""
    spill = Spill()
    spill.add_array(values)
    return spill.array(values.dtype)
