"""Hold ascending numbers as runs of consecutive ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Ascending numbers, held as runs of consecutive ones; an int64 array wherever one is asked for."""

    dtype: ClassVar[np.dtype[np.int64]] = np.dtype(np.int64)
    index_r: Ints
    """[r] index of each run's first number; begins with 0."""
    first_r: Ints
    """[r] each run's first number."""
    count: int

    @classmethod
    def of(cls, first_r: NDArray[Any], count_r: NDArray[Any]) -> Runs:
        """Return the numbers of runs, ascending and apart from each other; empty ones and seams vanish."""
        kept = count_r > 0
        first, count = first_r[kept].astype(np.int64), count_r[kept].astype(np.int64)
        begins = np.ones(len(first), bool)
        begins[1:] = first[1:] != (first + count)[:-1]
        index = np.cumsum(count) - count
        return cls(index[begins], first[begins], int(count.sum()))

    @classmethod
    def like(cls, numbers: Runs | NDArray[Any]) -> Runs:
        """Return ascending numbers, each once, as runs."""
        if isinstance(numbers, Runs):
            return numbers
        index = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1] + 1][: len(numbers)])
        return cls(index, numbers[index].astype(np.int64), len(numbers))

    @property
    def counts_r(self) -> Ints:
        """[r] how many numbers each run has."""
        return np.diff(self.index_r, append=self.count)

    def __len__(self) -> int:
        return self.count

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = np.repeat(self.first_r - self.index_r, self.counts_r)
        array += np.arange(self.count)
        return array if dtype is None else array.astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        """Return the number at an index, or int64 [n] of a slice, of indices, or of a mask."""
        if isinstance(index, slice):
            return self._at(np.arange(*index.indices(self.count)))
        wanted = np.asarray(index)
        if wanted.dtype == np.bool_:
            return self._at(np.flatnonzero(wanted))
        wanted = np.where(wanted < 0, wanted + self.count, wanted)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"index out of range: there are {self.count:,} numbers")
        return self._at(wanted)

    def _at(self, index: NDArray[Any]) -> Any:
        run = np.searchsorted(self.index_r, index, side="right") - 1
        return self.first_r[run] + (index - self.index_r[run])

    def __iter__(self) -> Iterator[int]:
        for first, count in zip(self.first_r.tolist(), self.counts_r.tolist(), strict=True):
            yield from range(first, first + count)

    def tolist(self) -> list[int]:
        """Return the numbers."""
        return list(self)

    def find(self, numbers: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the index of each number, and whether it is one of these."""
        if not self.count:
            return np.zeros(len(numbers), np.int64), np.zeros(len(numbers), bool)
        run = np.maximum(np.searchsorted(self.first_r, numbers, side="right") - 1, 0)
        step = numbers - self.first_r[run]
        return self.index_r[run] + step, (step >= 0) & (step < self._count(run))

    def _count(self, run: Ints) -> Ints:
        """Return how many numbers each of these runs has, [n]; `counts_r` looks at every run for it."""
        last = len(self.index_r) - 1
        end = np.where(run < last, self.index_r[np.minimum(run + 1, last)], self.count)
        return end - self.index_r[run]

    def below(self, numbers: Ints) -> Ints:
        """Return how many of these are smaller than each number, int64 [n]."""
        if not self.count:
            return np.zeros(len(numbers), np.int64)
        run = np.searchsorted(self.first_r, numbers, side="right") - 1
        step = np.minimum(numbers - self.first_r[run], self._count(run))
        return np.where(run < 0, 0, self.index_r[run] + step)

    def holds(self, first: int, stop: int) -> bool:
        """Return whether each of one or more numbers, `first` to before `stop`, is one of these."""
        run = int(self.first_r.searchsorted(first, "right")) - 1
        if run < 0:
            return False
        end = self.index_r[run + 1] if run + 1 < len(self.index_r) else self.count
        return bool(stop - self.first_r[run] <= end - self.index_r[run])

    def within(self, first: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which of the numbers from `first` to before `stop` are these, None where all are."""
        return None if self.holds(first, stop) else self.find(np.arange(first, stop))[1]
