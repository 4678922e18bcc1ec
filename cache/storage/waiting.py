"""Wait for an answer of the network so that a stop request ends the wait."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from usjepa.cache.interrupt import safe_point

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_POLL_S = 0.2
_PATIENCE_S = 3.0
"""Seconds that an answer has after which a stop request is obeyed: what is answered as usual, such as the removal of a
claim, is still done when a stop was asked for."""


@dataclass
class _Value(Generic[T]):
    value: T


def waited(call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises; Interrupted when it is stuck and a stop was asked for.

    The libraries beneath don't look for signals while they wait. A call that is given up goes on in a thread of its own
    until its time is up, and its result is dropped.
    """
    answers: queue.SimpleQueue[_Value[T] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            answers.put(error)
        else:
            answers.put(_Value(value))

    threading.Thread(target=run, name="usjepa-storage", daemon=True).start()
    waited_s = 0.0
    while True:
        try:
            answer = answers.get(timeout=_POLL_S)
        except queue.Empty:
            waited_s += _POLL_S
            if waited_s >= _PATIENCE_S:
                safe_point()
            continue
        if isinstance(answer, BaseException):
            raise answer
        return answer.value
