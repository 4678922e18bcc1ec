"""Make batches in a background thread while a step runs."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from usjepa.cache.reading.process import short_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Request = TypeVar("Request")
Made = TypeVar("Made")


def read_ahead(
    requests: Iterable[Request], read: Callable[[Request], Made], received: Callable[[Made], Made], ahead: int
) -> Generator[tuple[Made, float]]:
    """Yield the requested batches in order, each with the seconds waited for it.

    An exception in the thread is raised here, at the batch it belongs to. Leaving the loop early (close the iterator,
    or let an exception pass) waits for the read in progress and drops the rest.

    Args:
        requests: of the batches.
        read: makes one in the background thread.
        received: finishes it in the computing one.
        ahead: fewest batches prepared while one is computed on.
    """
    pending: deque[Future[Made]] = deque()
    todo = iter(requests)
    pool = ThreadPoolExecutor(1, "usjepa-batches")
    try:
        with short_turns():
            while True:
                while len(pending) <= ahead and (request := next(todo, None)) is not None:
                    pending.append(pool.submit(read, request))
                if not pending:
                    return
                start = time.perf_counter()
                batch = pending.popleft().result()
                waited = time.perf_counter() - start
                yield received(batch), waited
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
