"""Ctrl-C and SIGTERM end long work at a safe point, with what is finished kept."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usjepa.cache.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class StopFlag:
    """Whether a stop was asked for; long work asks at its safe points."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def requested(self) -> bool:
        """Return whether Ctrl-C or SIGTERM has arrived."""
        return self._signal is not None

    def request(self, number: int) -> None:
        """Note a signal; a second Ctrl-C does not wait for a safe point."""
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def check(self, how_to_go_on: str) -> None:
        """Raise Interrupted when a stop was asked for.

        Args:
            how_to_go_on: what the person should run next, for the message.
        """
        if self._signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self._signal).name}. {how_to_go_on}")


@contextmanager
def graceful_interrupts() -> Iterator[StopFlag]:
    """Turn SIGINT and SIGTERM into a flag for the length of a `with` block.

    Signal handlers belong to the main thread; in another thread the flag never rises and signals keep their meaning.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        flag.request(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            # None: set from outside Python, which can't be put back from here; the default comes nearest.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
