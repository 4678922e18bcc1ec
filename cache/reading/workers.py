"""Share numbered pieces of work among threads, the calling one included.

Whoever is free takes the next piece: fixed shares would make every batch as slow as its slowest thread, and a caller
that only waits would waste a core. A helper that the system has not woken by the time the work is done is not waited
for. The threads wait on a queue of their own: an executor's futures cost 70 us per batch before the first byte is read
and 90 us after the last.

A thread that waits does so for a disk, or for the interpreter's lock while another computes in Python. Those who wait
for the lock stand in a queue, and each gets it in the same turn of the other: eight threads read four times the rows
of two. Where none waits, eight are a tenth slower than two. So more join when the call before mostly waited.
"""

from __future__ import annotations

import queue
import threading
import weakref
from itertools import count
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Call:
    """One call of `Workers.run`: which pieces are taken, and who is at work on them."""

    def __init__(self, pieces: int, work: Callable[[int], object]) -> None:
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
        while not self._over and (number := next(self._numbers)) < self._pieces:
            try:
                self._work(number)
            except Exception as error:  # noqa: BLE001 - raised by `Workers.run` in its caller's thread, once all have stopped
                self.failed.append((number, error))
                self._over = True

    def help(self) -> None:
        """Work as a helper, unless the call has ended already, and report the end."""
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
        self._work = _nothing  # a helper that wakes later must not keep the batch, and the shards that it pins


def _nothing(_: int) -> None:
    """Stand in for the work of a call that has ended."""


_Calls = queue.SimpleQueue[_Call | None]


class Workers:
    """The calling thread and `helpers` more; of one process. Any number of threads may call `run` at once."""

    def __init__(self, helpers: int, spare: int = 0) -> None:
        """`spare` helpers are started, and join the others, only where threads mostly wait."""
        self._calls: _Calls = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._helpers, self._spare = helpers, spare
        self._wait = False
        """Whether the calling thread of the last call waited longer than it computed."""
        self._end = weakref.finalize(self, _dismiss, self._calls, self._threads)
        self._start(helpers)

    @property
    def threads(self) -> int:
        """Threads that share the work of a call that begins now."""
        return 1 + self._helpers + (self._spare if self._wait else 0)

    def _start(self, helpers: int) -> None:
        with self._starting:
            # Nobody would end a thread of workers that are closed.
            for number in range(len(self._threads), helpers if self._end.alive else 0):
                # Daemons: a store that is still open must not keep a program from ending.
                thread = threading.Thread(target=_serve, args=(self._calls,), name=f"usjepa-read-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def run(self, pieces: int, work: Callable[[int], object], alone: bool = False) -> None:
        """Have the threads call `work` with 0, 1, ... `pieces` - 1, each once; `alone`: the calling thread only.

        Raises:
            Exception: what the first piece in order that failed raised; pieces not begun by then are left out.
        """
        call, helpers = _Call(pieces, work), self.threads - 1
        if helpers > len(self._threads):
            self._start(helpers)
        try:
            # One piece alone is done before a helper wakes.
            for _ in range(0 if alone else min(helpers, pieces - 1)):
                self._calls.put(call)
            wall_s, own_s = perf_counter(), thread_time()
            call.work()
        finally:
            call.close()
        self._wait = perf_counter() - wall_s > 2 * (thread_time() - own_s)
        failed, call.failed = call.failed, []
        try:
            if failed:
                raise min(failed, key=lambda entry: entry[0])[1]
        finally:
            del failed  # else the error would hold itself through its traceback, and with it the batch

    def close(self) -> None:
        """End the threads; workers that are no longer used end them too."""
        with self._starting:  # else a call that begins now could start a thread that was told nothing
            self._end()
        for thread in self._threads:
            thread.join()


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call.help()
        del call  # or its batch's memory would be held until the next one


def _dismiss(calls: _Calls, threads: list[threading.Thread]) -> None:
    for _ in threads:
        calls.put(None)
