"""Let threads in one at a time, in the order in which work was given."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL_S = 0.2


class Turns:
    """Numbers that are drawn in order, and wait for all that were drawn before; threads share them.

    Work is given out in an order that threads need not keep: one that sleeps for a moment is overtaken. So whoever
    gives out work draws its number.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` is called while a thread waits, and may raise."""
        self._check, self._ended = check, threading.Condition()
        self._numbers, self._open = itertools.count(), set[int]()

    def draw(self) -> int:
        """Return the next number. Work behind it waits until it is given up, which has to be soon."""
        with self._ended:
            number = next(self._numbers)
            self._open.add(number)
            return number

    def give_up(self, number: int) -> None:
        """End a turn, or say that it is not wanted; once more does no harm."""
        with self._ended:
            self._open.discard(number)
            self._ended.notify_all()

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Wait until no earlier number is left, and end the turn with the block."""
        try:
            with self._ended:
                while min(self._open) < number:
                    self._ended.wait(_POLL_S)
                    self._check()
            yield
        finally:
            self.give_up(number)
