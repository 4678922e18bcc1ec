"""Run a stage's work in the thread that waits for it.

Torch keeps a pool of threads for each thread that computes on a processor, and several of them slow one another down:
so a build of one device computes where its teacher was tried, in the main thread.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class CallingThread(Executor):
    """Runs what is submitted in the thread that calls `work`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call made by whoever calls `work`."""
        future: Future[T] = Future()

        def run() -> None:
            if self._closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):  # a second Ctrl-C
                    raise
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError("nothing more is computed.")
            self._jobs.put(run)
        return future

    def wake(self) -> None:
        """Have `work` return now."""
        self._jobs.put(lambda: None)

    def work(self, timeout_s: float) -> None:
        """Run one job, or return after some seconds without one."""
        try:
            job = self._jobs.get(timeout=timeout_s)
        except queue.Empty:
            return
        job()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what was not begun; nobody would run it."""
        del wait, cancel_futures
        with self._lock:
            self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            job()
