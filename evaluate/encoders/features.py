"""Compute an encoder's features of a task once, keep them, and use them again.

They are kept under the hash of the encoder's identity, the task store's content and the rows; see
`usjepa.cache.reading.kept`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xxhash

from usjepa.cache.errors import UsjepaError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.reading.kept import KeptArray

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.several.face import Readable
    from usjepa.evaluate.encoders.base import Encoder

FEATURES_VERSION = 2
"""Raised when the same encoder and frames would give other numbers, or be kept in another way."""

_BATCHES_PER_SHARD = 4


class StoredFrames(Protocol):
    """Frames of a store: those of a task, or others."""

    @property
    def name(self) -> str:
        """What they are called in progress."""
        ...

    @property
    def store(self) -> Readable:
        """Where they lie."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """[n] row numbers."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class KeptFeatures:
    """The features that a report's folder keeps."""

    folder: Path
    batch_size: int
    """Frames per forward pass."""

    def features(self, encoder: Encoder, task: StoredFrames) -> NDArray[np.float32]:
        """Return float32 [n, F] for a task's frames: from an earlier call, or computed and kept for the next.

        Raises:
            UsjepaError: the encoder gave a number that is not finite; the row is named.
            ClaimedError: another process is computing these very features.
        """
        kept = KeptArray(self.folder, feature_identity(encoder, task), len(task), self.batch_size * _BATCHES_PER_SHARD)
        return kept.get(lambda rows: self._computed(encoder, task, rows), f"{task.name}: {encoder.name}")

    def _computed(self, encoder: Encoder, task: StoredFrames, numbers: range) -> NDArray[np.float32]:
        """Return the features of some of the task's frames, float32 [n, F], all finite."""
        rows, parts = task.rows[numbers.start : numbers.stop], []
        for start in range(0, len(rows), self.batch_size):
            safe_point()  # the same call goes on from here later
            some = rows[start : start + self.batch_size]
            features = encoder.features(task.store.read(some, layers=encoder.layers))
            finite = np.isfinite(features).all(axis=1)
            if not finite.all():
                raise UsjepaError(
                    f"{task.store.location}: row {int(some[~finite][0])}: {encoder.name} gave a feature that is not "
                    "finite. Check the encoder's weights; a run whose loss diverged must be trained again."
                )
            parts.append(np.asarray(features, dtype=np.float32))
        return np.concatenate(parts)


def feature_identity(encoder: Encoder, task: StoredFrames) -> dict[str, Json]:
    """Return everything that may change the features of a task."""
    rows = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(task.rows, dtype="<i8").tobytes())
    content = task.store.content_digest(encoder.layers)
    return {"version": FEATURES_VERSION, "encoder": encoder.identity, "store": content, "rows": rows}
