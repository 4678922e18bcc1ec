"""Give each process its own files and threads, never those of its parent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_this_process = object()


def _after_fork() -> None:
    # Not the process number: a grandchild may have that of its dead grandparent.
    global _this_process
    _this_process = object()


os.register_at_fork(after_in_child=_after_fork)


class _Closing(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closing)


class PerProcess(Generic[T]):
    """The value of whichever process asks, made when it first does."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[object, T] = {}

    def get(self) -> T:
        """Return this process's, making it anew after a fork or a close."""
        value = self._made.get(_this_process)
        if value is None:
            # Threads that come here together each make one, with nothing open in it yet; the first one stays.
            value = self._made.setdefault(_this_process, self._make())
        return value

    def close(self) -> None:
        """Close this process's, if it has any."""
        value = self._made.pop(_this_process, None)
        if value is not None:
            value.close()
