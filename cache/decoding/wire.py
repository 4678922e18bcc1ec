"""Send and receive messages over a socket without ever waiting blindly.

A message is its length, 8 bytes little-endian, and so many bytes. While nothing moves, `idle` is called again and
again, and may raise to give up: whatever the process on the other side does or fails to do, it can't hold up this one.
"""

from __future__ import annotations

import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_LENGTH = struct.Struct("<Q")


class Wire:
    """One end of a connected socket; belongs to one thread at a time."""

    def __init__(self, end: socket.socket, poll_s: float | None) -> None:
        """Take over a socket; `poll_s` seconds lie between two calls of `idle`, None: it is never called."""
        self._end = end
        end.settimeout(poll_s)

    def send(self, data: bytes | memoryview, idle: Callable[[], None] = lambda: None) -> None:
        """Send a message; OSError when the other side has closed."""
        for part in (_LENGTH.pack(len(data)), data):
            left = memoryview(part)
            while left:
                try:
                    left = left[self._end.send(left) :]
                except TimeoutError:
                    idle()

    def receive(self, idle: Callable[[], None] = lambda: None) -> bytearray:
        """Return the next message, in memory of its own; EOFError or OSError when the other side has closed."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, idle))
        return self._exactly(length, idle)

    def _exactly(self, nbytes: int, idle: Callable[[], None]) -> bytearray:
        data = bytearray(nbytes)
        left = memoryview(data)
        while left:
            try:
                got = self._end.recv_into(left)
            except TimeoutError:
                idle()
                continue
            if not got:
                raise EOFError("the other side has closed")
            left = left[got:]
        return data

    def is_readable(self) -> bool:
        """Return whether something has come, or the other side has closed."""
        return bool(select.select([self._end], [], [], 0)[0])

    def close(self) -> None:
        """Close this end."""
        self._end.close()
