"""Plan a batch once for all layers: the shard, slot and place of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.places.runs import Runs


class ReadPlan:
    """Rows of a batch in the order of the files. Lists, which Python's loop walks faster than arrays."""

    __slots__ = ("_numbers", "_shard_rows", "nth", "places", "rows", "shards", "slots")

    def __init__(self, numbers: NDArray[np.int64], places: NDArray[np.int64], shard_rows: int) -> None:
        """Plan [n] row numbers, ascending and at least one; `places` [n] are theirs in the batch."""
        self._numbers, self._shard_rows = numbers, shard_rows
        shard, slot = np.divmod(numbers, shard_rows)
        first = np.ones(len(shard), bool)
        np.not_equal(shard[1:], shard[:-1], out=first[1:])
        self.shards: list[int] = shard[first].tolist()
        """Numbers of the shards, ascending, each once."""
        self.nth: list[int] = (np.cumsum(first) - 1).tolist()
        """[n] Which of `shards` a row lies in."""
        self.slots: list[int] = slot.tolist()
        """[n] Place of a row within its shard."""
        self.rows: list[int] = numbers.tolist()
        self.places: list[int] = places.tolist()
        """[n] Place of a row within the batch."""

    @classmethod
    def of(cls, numbers: NDArray[np.int64], shard_rows: int, places: NDArray[np.int64] | None = None) -> ReadPlan:
        """Plan [n] row numbers in the order asked for, where `shard_rows` rows make a shard.

        `places` [n] are theirs in the batch where it has rows of other stores too.
        """
        order = np.argsort(numbers, kind="stable")
        return cls(numbers[order], order if places is None else places[order], shard_rows)

    def parts(self, most: int) -> list[ReadPlan]:
        """Return plans of at most `most` shards each, which together are this one."""
        if len(self.shards) <= most:
            return [self]
        places = np.array(self.places)
        cuts = np.searchsorted(self.nth, range(most, len(self.shards), most))
        halves = zip(np.split(self._numbers, cuts), np.split(places, cuts), strict=True)
        return [ReadPlan(numbers, part, self._shard_rows) for numbers, part in halves]

    def foreseen(self, existing: Runs) -> tuple[list[int], list[int]]:
        """Return how many rows before each, [n], and how many in all its shard holds if just `existing` rows exist."""
        firsts = np.array(self.shards) * self._shard_rows
        begin, end = existing.below(firsts), existing.below(firsts + self._shard_rows)
        return (existing.below(self._numbers) - begin[self.nth]).tolist(), (end - begin).tolist()
