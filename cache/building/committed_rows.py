"""Read rows of committed shards that need not be sealed yet, checked like any read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.reading.batch_reader import BatchReader
from usjepa.cache.reading.layer_reader import ReadPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.commits import Commit
    from usjepa.cache.store.layers import Layer


class _Tables(Sequence[str]):
    """Table hashes of committed shards, by shard number."""

    def __init__(self, commits: Mapping[int, Commit]) -> None:
        self._commits = commits

    def __getitem__(self, shard: Any) -> Any:
        return self._commits[shard].table

    def __len__(self) -> int:
        return max(self._commits, default=-1) + 1


class CommittedRows:
    """Reads some layers of a store that is being written; shards that were read stay open. Threads may share it."""

    def __init__(self, storage: Storage, layers: Iterable[tuple[Layer, Mapping[int, Commit]]]) -> None:
        """`layers`, each with its finished shards; what is finished later may be read too."""
        given = list(layers)
        self._layers = [layer for layer, _ in given]
        self._reader = BatchReader(storage, [(layer, _Tables(commits)) for layer, commits in given], threads=1)

    def read(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        """Return rows, an array [n, *shape] a layer, neighbours read together; raises as `Store.read` does."""
        arrays = {layer.name: np.zeros((len(rows), *layer.shape), layer.dtype) for layer in self._layers}
        if len(rows):
            plan = ReadPlan.of(np.array(rows, np.int64), self._layers[0].rows_per_shard)
            self._reader.read(plan, arrays)
        return list(arrays.values())

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()


def read_committed(storage: Storage, layer: Layer, commits: Mapping[int, Commit], rows: Sequence[int]) -> NDArray[Any]:
    """Return rows of one layer."""
    reader = CommittedRows(storage, [(layer, commits)])
    (array,) = reader.read(rows)
    reader.close()
    return array
