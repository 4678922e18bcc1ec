"""Write to standard output and error so that no reader or name does harm.

A reader may leave (`| head -1`), the disk behind a log may be full, a stream may be closed, and what is printed may
hold control characters from a stranger's file names, labels or claims. None of these ends or changes work under way:

* A closed standard stream is opened on the null device first. Otherwise the next file that a store opens would get its
  number, and whatever prints to it would be written into that file.
* Reports (standard error) that nobody can take any more are dropped; the exit code still tells how it ended.
* Results (standard output) are dropped when their reader has left; a disk that is full is an error.
* Control characters are shown as escapes (`\\x1b`).
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CONTROLS = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""C0 without tab and newline, C1, separators of lines, marks that reverse text, bytes of names that are no UTF-8."""
_HARMFUL = re.compile(f"[{_CONTROLS}]")
_HARMFUL_NAME = re.compile(f"[{_CONTROLS}\t\n]")
_READER_LEFT = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def shown(text: str) -> str:
    """Return a text as a terminal may have it: control characters escaped, lines kept."""
    return _HARMFUL.sub(_escaped, text)


def shown_name(name: str) -> str:
    """Return a name from a file as part of a line: control characters escaped, those that end a line too."""
    return _HARMFUL_NAME.sub(_escaped, name)


class _Outlet(io.RawIOBase):
    """A standard stream's descriptor, which takes everything once it is lost."""

    def __init__(self, number: int, *, must_arrive: bool) -> None:
        self._number, self._must_arrive, self._lost = number, must_arrive, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        if self._lost:
            return view.nbytes
        try:
            return os.write(self._number, view)
        except OSError as error:
            self._lost = True  # also for what Python flushes at exit, which would end with code 120
            if self._must_arrive and error.errno not in _READER_LEFT:
                raise OSError(error.errno, error.strerror, "standard output") from error
            return view.nbytes


class _Stream(io.TextIOWrapper):
    """A standard stream that shows control characters as escapes."""

    def __init__(self, number: int, encoding: str, *, must_arrive: bool, kept: str = "") -> None:
        outlet = _Outlet(number, must_arrive=must_arrive)
        live = outlet.isatty() or not must_arrive
        super().__init__(io.BufferedWriter(outlet), encoding, "backslashreplace", line_buffering=live)
        self._harmful = re.compile(f"(?![{kept}])[{_CONTROLS}]") if kept else _HARMFUL

    def write(self, text: str, /) -> int:
        super().write(self._harmful.sub(_escaped, text))
        return len(text)


def _open_closed_streams() -> None:
    """Open descriptors 0, 1 and 2 on the null device where they are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def use_safe_streams() -> None:
    """Give this process safe standard streams until it ends.

    Streams that are not the process's own (those of a test or a notebook) stay as they are.
    """
    _open_closed_streams()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _Stream(1, getattr(sys.stdout, "encoding", "utf-8"), must_arrive=True)
    if sys.stderr is sys.__stderr__:
        # Progress bars go back to the start of their line.
        sys.stderr = _Stream(2, getattr(sys.stderr, "encoding", "utf-8"), must_arrive=False, kept="\r")
