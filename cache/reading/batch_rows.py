"""The row numbers of a batch, in the forms in which reading needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class BatchRows:
    """[B] row numbers, in the order asked for."""

    def __init__(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        self.numbers: NDArray[np.int64] = np.array(rows, np.int64).reshape(-1)
        """A copy: contiguous and nobody else's, as the compiled loop needs them."""

    @lazy
    def listed(self) -> list[int]:
        """The numbers as Python's."""
        listed: list[int] = self.numbers.tolist()
        return listed

    @lazy
    def order(self) -> list[int]:
        """Places in the batch, in the order of the file."""
        # Plain Python: for a batch of hundreds, NumPy's calls cost more than they save.
        return sorted(range(len(self.listed)), key=self.listed.__getitem__)
