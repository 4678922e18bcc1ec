"""preadv2 and posix_fadvise of a test's own for the compiled loops, which call the C library's by their addresses."""

from __future__ import annotations

import ctypes
import os
from functools import partial
from typing import TYPE_CHECKING

from usjepa.cache.reading import reading, row_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Preadv2 = Callable[[int, int, int, int, int], int]
    """(descriptor, address of the iovecs, their number, offset, flags) -> bytes read, or -1."""

_PREADV2 = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int)
_ADVISE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)


def preadv2(handle: int, buffers: int, count: int, offset: int, flags: int) -> int:
    """The C library's."""
    return ctypes.CDLL(None).preadv2(handle, ctypes.c_void_p(buffers), count, ctypes.c_int64(offset), flags)


def call_instead(monkeypatch: pytest.MonkeyPatch, function: Preadv2) -> None:
    """Have the compiled loop call a function of the test's; nothing changes where there is no compiled loop."""
    calls = row_loop.addresses()
    assert calls is not None
    callback = _PREADV2(function)
    calls[0] = ctypes.cast(callback, ctypes.c_void_p).value
    loop = partial(row_loop.machine_code(), calls)
    loop.kept = callback  # type: ignore[attr-defined]  # the address is no reference
    if reading.compiled() is not None:
        monkeypatch.setattr(reading, "compiled", lambda: loop)


def advise_instead(monkeypatch: pytest.MonkeyPatch, function: Callable[[int, int, int, int], None]) -> None:
    """Have posix_fadvise be a function of the test's, Python's and the compiled loop's alike."""
    monkeypatch.setattr(os, "posix_fadvise", function)
    callback = _ADVISE(lambda *advice: function(*advice) or 0)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    loop = partial(row_loop.asking_machine_code(), address, os.POSIX_FADV_WILLNEED)
    loop.kept = callback  # type: ignore[attr-defined]
    if reading.asking() is not None:
        monkeypatch.setattr(reading, "asking", lambda: loop)
