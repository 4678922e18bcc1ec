"""Keep one idle child for whoever decodes next.

To start one takes a third of a second, and a build opens files to list them, to count their frames, and to cut their
rows, each time by children that know other settings. Within a `with` block of `spare_child` the last child that had
ended its work waits for the next task.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from usjepa.cache.decoding.lifeline import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.decoding.lifeline import Child


class _Spare:
    """At most one child, of this process, while some block wants one kept."""

    def __init__(self) -> None:
        self._lock, self._wanted = threading.Lock(), 0
        self.child: Child | None = None

    def want(self, more: int) -> None:
        """Begin or end a block; the child ends with the last one."""
        with self._lock:
            self._wanted += more
            left = None if self._wanted else self._taken()
        if left is not None:
            left.end()

    def put(self, child: Child) -> None:
        """Keep an idle child, or end it where none is wanted or one is kept."""
        with self._lock:
            keep = self._wanted > 0 and self.child is None
            if keep:
                self.child = child
        if not keep:
            child.end()

    def take(self) -> Child | None:
        """Return the child, if there is one that lives, and that is as one would be that were started now."""
        with self._lock:
            child = self._taken()
        if child is None or (child.process.poll() is None and child.surroundings == Surroundings.now()):
            return child
        child.end()
        return None

    def _taken(self) -> Child | None:
        child, self.child = self.child, None
        return child


_spare = _Spare()


def _forget() -> None:
    # A forked copy: the child is its parent's, which this one must not end, and a thread may have held the lock.
    global _spare
    before, _spare = _spare, _Spare()
    if before.child is not None:
        before.child.let_go()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def spare_child() -> Iterator[None]:
    """Keep a child that has ended its work for the next that is needed, for the length of a `with` block."""
    spare = _spare
    spare.want(1)
    try:
        yield
    finally:
        if spare is _spare:  # else this is a forked copy
            spare.want(-1)


def put_back(child: Child) -> None:
    """Give an idle child away: it is kept within `spare_child`, and ended otherwise."""
    _spare.put(child)


def taken() -> Child | None:
    """Return a child that was kept, if there is one."""
    return _spare.take()
