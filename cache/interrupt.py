"""End long work at a safe point on Ctrl-C or SIGTERM, keeping what is finished."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usjepa.cache.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class StopFlag:
    """A stop request by Ctrl-C or SIGTERM, or none yet."""

    def __init__(self, how_to_go_on: str) -> None:
        self._how_to_go_on = how_to_go_on
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

    def check(self, how_to_go_on: str | None = None) -> None:
        """Raise Interrupted when a stop was asked for.

        Args:
            how_to_go_on: what the person should run next, for the message; none: what the flag was made with.
        """
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Interrupted(f"stopped by {name}. {how_to_go_on or self._how_to_go_on}")


_checks: list[Callable[[], None]] = []
"""Of the `with` blocks that are open, the innermost last; the main thread's."""


class _Own(threading.local):
    """What a thread has for itself."""

    check: Callable[[], None] | None = None
    """In place of the process's: a worker of a cluster makes several builds, and the end of one ends no other."""


_own = _Own()


def safe_point() -> None:
    """Raise Interrupted when a stop was asked for; call it wherever work may end with nothing lost, in any thread.

    A signal reaches the process, not an object in it, and so does the flag that it raises: nothing has to be handed
    down to the loops that end early.
    """
    if _own.check is not None:
        _own.check()
        return
    for check in _checks[-1:]:  # one step: another thread may end its `with` block meanwhile
        check()


@contextmanager
def at_safe_points(check: Callable[[], None]) -> Iterator[None]:
    """Have `safe_point` call `check`, which may raise to stop, for the length of a `with` block."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


@contextmanager
def at_own_safe_points(check: Callable[[], None]) -> Iterator[None]:
    """Have `safe_point` call `check` in this thread and in every `pool` that it makes within a `with` block."""
    before, _own.check = _own.check, check
    try:
        yield
    finally:
        _own.check = before


def pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return threads whose safe points are those of the thread that makes them, for good."""
    return ThreadPoolExecutor(threads, name, initializer=_take_over, initargs=(_own.check,))


def _take_over(check: Callable[[], None] | None) -> None:
    _own.check = check


@contextmanager
def graceful_interrupts(how_to_go_on: str = "Run the same command again to go on.") -> Iterator[StopFlag]:
    """Turn SIGINT and SIGTERM into a flag for the length of a `with` block.

    Signal handlers belong to the main thread; in another thread the flag never rises and signals keep their meaning.

    Args:
        how_to_go_on: what the person should run next, for the message of `safe_point`.
    """
    flag = StopFlag(how_to_go_on)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        flag.request(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with at_safe_points(flag.check):
            yield flag
    finally:
        for number, handler in before.items():
            # None: set from outside Python, which can't be put back from here; the default comes nearest.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, as SIGINT does, for the length of a `with` block in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
