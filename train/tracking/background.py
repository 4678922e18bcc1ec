"""Keep a tracker that is slow, dead or broken from holding up the run."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.train.tracking.tracker import Line, Tracker

logger = logging.getLogger(__name__)

_WAITING = 20_000
"""Lines that wait for a slow service; more are dropped, and counted."""
_AT_ONCE = 500
_LAST_S = 30.0
"""Seconds that a run's end waits for the last lines."""


class Background:
    """Opens a tracker and writes to it in a thread of its own. Whatever it raises is said once, and the run goes on."""

    def __init__(self, name: str, opened: Callable[[], Tracker], last_s: float = _LAST_S) -> None:
        """Begin; `opened` is called in the thread, since it may wait for a network."""
        self._name, self._opened, self._last_s = name, opened, last_s
        self._lines: queue.Queue[Line | None] = queue.Queue(_WAITING)
        self._dropped, self._lost = 0, threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, lines: Sequence[Line]) -> None:
        """Hand lines over without waiting."""
        if self._lost.is_set():
            return
        for line in lines:
            try:
                self._lines.put_nowait(line)
            except queue.Full:
                self._dropped += 1

    def close(self) -> None:
        """Wait for the last lines, for so many seconds at most."""
        end = time.monotonic() + self._last_s
        try:
            self._lines.put(None, timeout=self._last_s)
            self._thread.join(max(0.0, end - time.monotonic()))
        except queue.Full:
            pass
        if self._thread.is_alive():
            logger.warning(
                f"{self._name} did not take the last lines within {self._last_s:g} s. log.jsonl has them all."
            )
        elif self._dropped and not self._lost.is_set():
            logger.warning(f"{self._name} was too slow for {self._dropped:,} lines. log.jsonl has them all.")

    def _work(self) -> None:
        try:
            tracker = self._opened()
            while (lines := self._next()) is not None:
                tracker.write(lines)
            tracker.close()
        except Exception as error:  # noqa: BLE001  # a service's client may raise anything; the run must not end by it
            self._lost.set()
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning(f"{self._name} takes no more ({reason}). The run goes on; log.jsonl has everything.")

    def _next(self) -> list[Line] | None:
        """Wait for a line and return it with those behind it; None at the end."""
        first = self._lines.get()
        found = [first]
        while found[-1] is not None and len(found) < _AT_ONCE:
            try:
                found.append(self._lines.get_nowait())
            except queue.Empty:
                break
        lines = [line for line in found if line is not None]
        if found[-1] is None and lines:
            self._lines.put(None)
        return lines or None
