"""Threads that share jobs out: whoever is free takes the next one, and the calling thread works too.

Fixed shares would make every batch as slow as its slowest thread, and a caller that only waits would waste a core. A
helper that the system has not woken by the time the jobs are done is not waited for.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Job = tuple[int, "Callable[[], None]"]


class Crew:
    """The calling thread and `helpers` more; of one process. Any number of threads may call `run` at once."""

    def __init__(self, helpers: int) -> None:
        self._helpers = helpers
        self._pool = ThreadPoolExecutor(helpers, "usjepa-read") if helpers else None

    def run(self, jobs: Iterable[Callable[[], None]]) -> None:
        """Do every job once, in order but for overlap; when it returns or raises, none is still running.

        Raises:
            Exception: what the first job in order that failed raised; jobs not begun by then are left out.
        """
        todo: deque[Job] = deque(enumerate(jobs))
        failed: list[tuple[int, Exception]] = []
        # One job alone is done before a helper wakes.
        wanted = min(self._helpers, len(todo) - 1)
        helpers = [self._pool.submit(_work, todo, failed) for _ in range(wanted)] if self._pool else []
        try:
            _work(todo, failed)
        finally:
            todo.clear()
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        if failed:
            raise min(failed, key=lambda entry: entry[0])[1]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _work(todo: deque[Job], failed: list[tuple[int, Exception]]) -> None:
    """Take jobs until none is left or one has failed, here or in another thread."""
    while not failed:
        try:
            number, job = todo.popleft()
        except IndexError:
            return
        try:
            job()
        except Exception as error:  # noqa: BLE001 - raised by `run` in the calling thread, once all have stopped
            failed.append((number, error))
