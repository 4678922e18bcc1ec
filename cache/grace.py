"""What compiled readers may be using is let go of only when they have ended: epoch-based reclamation.

Whoever runs the compiled loop says once that it begins and once that it ends, and in between uses whatever it finds
without asking: for a batch from a thousand files that is two turns of a lock, not a thousand. Files and tables that
are dropped meanwhile are out of sight at once, and closed or freed when all runs that began before have ended.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_WAITING = 64
"""Things that may wait to be let go of, as far as `wait_for_room` is asked: files among them are still open."""


class Grace:
    """Runs of the compiled loop, and what waits for them to end. Of one process; its threads share it."""

    def __init__(self) -> None:
        self._start()
        self._retired: deque[tuple[int, Callable[[], object]]] = deque()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._last = 0
        self._inside: dict[object, int] = {}
        self._waiting = 0

    def enter(self, run: object) -> None:
        """Begin a run. What it finds stays until it ends."""
        with self._lock:
            self._last += 1
            self._inside[run] = self._last

    def leave(self, run: object) -> None:
        """End a run; one that was interrupted before it began is none."""
        with self._lock:
            self._inside.pop(run, None)
            due = self._due()
        self._let_go(due)

    def retire(self, let_go: Callable[[], object]) -> None:
        """Have `let_go` called once all runs of this moment have ended: now, if there is none.

        Runs that begin from now on must not find what is let go of.
        """
        with self._lock:
            self._retired.append((self._last, let_go))
            self._waiting += 1
            due = self._due()
        self._let_go(due)

    def _due(self) -> list[Callable[[], object]]:
        oldest = min(self._inside.values(), default=self._last + 1)
        due = []
        while self._retired and self._retired[0][0] < oldest:
            due.append(self._retired.popleft()[1])
        return due

    def _let_go(self, due: list[Callable[[], object]]) -> None:
        if not due:
            return
        try:
            for let_go in due:
                let_go()
        finally:
            # Not before: a file still to be closed by a thread that the system has put aside is an open file.
            with self._lock:
                self._waiting -= len(due)
                self._room.notify_all()

    def wait_for_room(self) -> None:
        """Wait until few things are left that were retired and not let go of yet. Not to be called in a run."""
        if self._waiting >= _MOST_WAITING:
            with self._lock:
                self._room.wait_for(lambda: self._waiting < _MOST_WAITING)

    def start_afresh(self) -> None:
        """Let go of everything in a forked child, whose parent's threads are not there."""
        self._start()
        while self._retired:
            self._retired.popleft()[1]()
