"""Threads that share numbered pieces of work: whoever is free takes the next one, and the calling thread works too.

Fixed shares would make every batch as slow as its slowest thread, and a caller that only waits would waste a core. A
helper that the system has not woken by the time the work is done is not waited for. The threads wait on a queue of
their own: an executor's futures cost 70 us a batch before the first byte is read and 90 us after the last.
"""

from __future__ import annotations

import queue
import threading
import weakref
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[Callable[[], int]], None]


class _Call:
    """One call of `Crew.run`: which pieces are taken, and who is at work on them."""

    def __init__(self, pieces: int, work: Work) -> None:
        self._pieces, self._work = pieces, work
        self._numbers = count()
        self._over = False
        self.failed: list[tuple[int, Exception]] = []
        self._lock = threading.Lock()
        self._helping = 0
        self._closed = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def work(self) -> None:
        """Take pieces until none is left or one has failed, here or in another thread."""
        number = -1

        def take() -> int:
            nonlocal number
            number = self._pieces if self._over else next(self._numbers)
            return number

        try:
            self._work(take)
        except Exception as error:  # noqa: BLE001 - raised by `Crew.run` in its caller's thread, once all have stopped
            self.failed.append((number, error))
            self._over = True

    def help(self) -> None:
        """Do what a helper does: work, unless the call has ended already, and tell when that is over."""
        with self._lock:
            if self._closed:
                return
            self._helping += 1
        self.work()
        with self._lock:
            self._helping -= 1
            last = self._closed and not self._helping
        if last:
            self._ended.release()

    def close(self) -> None:
        """Leave out the pieces not begun, and wait until no helper is at work any more."""
        self._over = True
        with self._lock:
            self._closed = True
            waiting = self._helping > 0
        if waiting:
            self._ended.acquire()


Calls = queue.SimpleQueue[_Call | None]


class Crew:
    """The calling thread and `helpers` more; of one process. Any number of threads may call `run` at once."""

    def __init__(self, helpers: int) -> None:
        self._calls: Calls = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        for number in range(helpers):
            # Daemons: a store that is still open must not keep a program from ending.
            thread = threading.Thread(target=_serve, args=(self._calls,), name=f"usjepa-read-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._end = weakref.finalize(self, _dismiss, self._calls, helpers)

    def run(self, pieces: int, work: Work) -> None:
        """Have every thread call `work(take)`; when it returns or raises, none is still at it.

        `take()` gives 0, 1, ... `pieces` - 1, each number to one thread; a number from `pieces` on says that all are
        taken, or that a piece has failed, and that `work` is to return.

        Raises:
            Exception: what the first piece in order that failed raised; pieces not begun by then are left out.
        """
        call = _Call(pieces, work)
        try:
            # One piece alone is done before a helper wakes.
            for _ in range(min(len(self._threads), pieces - 1)):
                self._calls.put(call)
            call.work()
        finally:
            call.close()
        if call.failed:
            raise min(call.failed, key=lambda entry: entry[0])[1]

    def close(self) -> None:
        """End the threads; a crew that is no longer used ends them too."""
        self._end()
        for thread in self._threads:
            thread.join()


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        call.help()
        del call  # or its batch's memory would be held until the next one


def _dismiss(calls: Calls, helpers: int) -> None:
    for _ in range(helpers):
        calls.put(None)
