"""What compiled readers may be using is let go of only when they have ended: epoch-based reclamation.

Whoever runs the compiled loop says once that it begins and once that it ends, and in between uses whatever it finds
without asking: for a batch from a thousand files that is two turns of a lock, not a thousand. Files and tables that
are dropped meanwhile are out of sight at once, and closed or freed when all runs that began before have ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MOST_WAITING = 64
"""Things that may wait to be let go of, as far as `wait_for_room` is asked: files among them are still open."""
_LOOK_AGAIN_S = 0.001


class Grace:
    """Runs of the compiled loop, and what waits for them to end. Of one process; its threads share it.

    A run is a lock that is held while it lasts: Ctrl-C may come between any two steps of Python, but not between the
    machine code's end and the release of a lock by `with`. What an interrupted run has left undone is done by whoever
    comes next.
    """

    def __init__(self) -> None:
        self._retired: deque[tuple[int, Callable[[], object]]] = deque()
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._runs: dict[threading.Lock, int] = {}

    def during(self, run: Callable[[], T]) -> T:
        """Call `run`, and keep what it may find until it ends."""
        held = threading.Lock()
        try:
            with self._lock:
                self._last += 1
                self._runs[held] = self._last
            with held:
                return run()
        finally:
            with self._lock:
                self._runs.pop(held, None)
                self._let_go()

    def retire(self, let_go: Callable[[], object]) -> None:
        """Have `let_go` called once all runs of this moment have ended: now, if there is none. It must not lock.

        Runs that begin from now on must not find what is let go of.
        """
        with self._lock:
            self._retired.append((self._last, let_go))
            self._let_go()

    def _let_go(self) -> None:
        if self._retired:
            oldest = min((number for held, number in self._runs.items() if held.locked()), default=self._last + 1)
            while self._retired and self._retired[0][0] < oldest:
                self._retired.popleft()[1]()

    def wait_for_room(self) -> None:
        """Wait until little is left that runs keep from being let go of. Not to be called in a run."""
        while len(self._retired) >= _MOST_WAITING:
            time.sleep(_LOOK_AGAIN_S)  # seldom enough, and a Condition does not outlive a Ctrl-C in its `wait`
            with self._lock:
                self._let_go()

    def start_afresh(self) -> None:
        """Let go of everything in a forked child, whose parent's threads are not there."""
        self._start()
        self._let_go()
