"""Have many sources looked at by several child processes at once, results in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import Interrupted
from usjepa.cache.interrupt import safe_point
from usjepa.cache.processors import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from types import TracebackType

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_FILES_A_CHILD = 16
"""Files for which a further child is worth the second that it takes to start."""
_AHEAD = 4
"""Files a child that are asked for before the first of them is wanted: one slow file holds up no other."""


def children_for(count: int, most: int) -> int:
    """Return how many children share so many files."""
    return max(1, min(most, count // _FILES_A_CHILD))


class ManyChildren:
    """As many child processes as cores, or `cache.decode_processes`; a context manager. Each starts when needed."""

    def __init__(self, listing: Listing, settings: CacheSettings, most: int | None = None) -> None:
        """Describe the children: at most that many, where `most` is given."""
        self.most = most or settings.decode_processes or cores()
        self._abandoned = threading.Event()
        self._children = [DecodingProcess(listing, settings, self._check) for _ in range(self.most)]

    def __enter__(self) -> ManyChildren:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.close()

    @property
    def first(self) -> DecodingProcess:
        """One of the children, for work that is not shared out."""
        return self._children[0]

    def each(
        self,
        work: Callable[[DecodingProcess, _Item], _Found],
        items: Iterable[_Item],
        count: int,
        before: Callable[[_Item], None] | None = None,
    ) -> Generator[_Found, None, None]:
        """Yield what the work finds of each item, in their order.

        An item is taken from `items` only shortly before its result is wanted. What `work` raises is raised here, in
        the order of the items; then nothing further is begun.

        Args:
            work: called with a child and an item, in a thread of its own where there are several children.
            items: what to look at.
            count: about how many they are; a few are all left to one child.
            before: called with an item in the thread that then waits for a child, for what needs none: one file is
                fetched from a slow share while another is decoded.
        """
        children = children_for(count, self.most)
        if children == 1:
            for item in items:
                if before is not None:
                    before(item)
                yield work(self.first, item)
            return
        free: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
        for child in self._children[:children]:
            free.put(child)

        def with_child(item: _Item) -> _Found:
            if before is not None:
                before(item)
            child = free.get()
            try:
                return work(child, item)
            finally:
                free.put(child)

        pending: deque[Future[_Found]] = deque()
        threads = children if before is None else 2 * children
        with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
            try:
                for item in items:
                    pending.append(pool.submit(with_child, item))
                    if len(pending) >= _AHEAD * children:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BaseException:
                self._abandoned.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._abandoned.clear()
                raise

    def _check(self) -> None:
        safe_point()
        if self._abandoned.is_set():
            raise Interrupted("files that are being read are not wanted any more.")
