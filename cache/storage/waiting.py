"""Wait for answers of the network, so that a stop request ends the wait.

The libraries beneath don't look for signals while they wait. A call that is given up goes on in a thread of its own
until its time is up, and its result is dropped. The threads are daemons: none keeps a program from ending.
"""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from usjepa.cache.interrupt import safe_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
_POLL_S = 0.2
_PATIENCE_S = 3.0
"""Seconds that an answer has after which a stop request is obeyed: what is answered as usual, such as the removal of a
claim, is still done when a stop was asked for."""
_AT_ONCE, _AT_ONCE_NBYTES = 128, 64 << 20
"""Calls that are under way at once, and bytes that they may bring before any is taken: at 20 ms a request 128 of them
ask as fast as one prefix of S3 answers (5,500 a second)."""


@dataclass
class _Value(Generic[T]):
    value: T


def _answer(call: Callable[[], T]) -> _Value[T] | BaseException:
    try:
        return _Value(call())
    except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
        return error


def _next(answers: queue.SimpleQueue[T]) -> T:
    """Return the next answer; Interrupted when none comes for long and a stop was asked for."""
    waited_s = 0.0
    while True:
        try:
            return answers.get(timeout=_POLL_S)
        except queue.Empty:
            waited_s += _POLL_S
            if waited_s >= _PATIENCE_S:
                safe_point()


def waited(call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises; Interrupted when it is stuck and a stop was asked for."""
    answers: queue.SimpleQueue[_Value[T] | BaseException] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_answer(call)), name="usjepa-storage", daemon=True).start()
    answer = _next(answers)
    if isinstance(answer, BaseException):
        raise answer
    return answer.value


class _Callers:
    """Threads of this process that make calls; as many as were ever needed at once."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0

    def call(self, make: Callable[[], None], wanted: int) -> None:
        """Have a thread make a call, with at least `wanted` threads there are for it."""
        while self._threads < min(wanted, _AT_ONCE):
            self._threads += 1
            threading.Thread(target=self._serve, name="usjepa-storage", daemon=True).start()
        self._calls.put(make)

    def _serve(self) -> None:
        while True:
            make = self._calls.get()
            make()
            del make  # or what it brought would be held until the next one


_callers = _Callers()


def _after_fork() -> None:
    global _callers
    _callers = _Callers()


os.register_at_fork(after_in_child=_after_fork)


def together(calls: Iterable[tuple[int, Callable[[], T]]], take: Callable[[int, T], object]) -> None:
    """Make many calls at once and pass what each returns to `take`, with its number, as it comes.

    Args:
        calls: (bytes that it brings, call); at most `_AT_ONCE_NBYTES` of them are held at a time.
        take: called in this thread.

    Raises:
        Exception: what one of them raised first; the others are given up.
        Interrupted: none is answered for long and a stop was asked for.
    """
    answers: queue.SimpleQueue[tuple[int, _Value[T] | BaseException]] = queue.SimpleQueue()
    pending: dict[int, int] = {}
    over = threading.Event()

    def begin(number: int, call: Callable[[], T]) -> Callable[[], None]:
        def make() -> None:
            if not over.is_set():
                answers.put((number, _answer(call)))

        return make

    def finish() -> None:
        number, answer = _next(answers)
        del pending[number]
        if isinstance(answer, BaseException):
            raise answer
        take(number, answer.value)

    try:
        for number, (nbytes, call) in enumerate(calls):
            while len(pending) >= _AT_ONCE or (pending and sum(pending.values()) + nbytes > _AT_ONCE_NBYTES):
                finish()
            pending[number] = nbytes
            _callers.call(begin(number, call), len(pending))
        while pending:
            finish()
    finally:
        over.set()
