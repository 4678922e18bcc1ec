"""Measure how near a converted layer comes to its original, over every row.

Errors are relative to latents centred per channel, and cosines are of latents standardised per channel, both by a
sample: a few channels with large means would hide any difference otherwise. Beside the cosine stands that of each row
with another, which unrelated frames give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.committed_rows import CommittedRows, read_committed
from usjepa.cache.building.recheck import as_float
from usjepa.cache.coding.principal import kept_variance
from usjepa.cache.interrupt import safe_point
from usjepa.cache.store.calibration import calibration_rows
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.identity import Json
    from usjepa.cache.store.commits import Commit
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.writer import StoreWriter

_TOLERANCE = {"int8": 3e-2, "float16": 1e-3}
"""Largest relative error that the rounding of a stored type explains."""


@dataclass(frozen=True)
class Agreement:
    """How near a layer comes to the one that it was made from."""

    layer: str
    against: str
    rows: int
    relative_error: float
    """Of all rows together."""
    worst_row: int
    worst_error: float
    cosine: float
    """Mean of tokens, standardised per channel."""
    control: float
    """The same with rows of the original against other rows."""
    tolerance: float
    kept: float | None = None
    """Share of the variance of all rows that the axes keep; None without axes."""

    @property
    def passed(self) -> bool:
        """Whether the stored form explains the error."""
        return self.relative_error <= self.tolerance

    def record(self) -> dict[str, Json]:
        """Return the manifest's entry: nothing in it depends on time or place."""
        told = {name: value for name, value in vars(self).items() if name != "kept" or value is not None}
        return {**told, "passed": self.passed}

    def __str__(self) -> str:
        kept = "" if self.kept is None else f"keeps {100 * self.kept:.2f} % of the variance, "
        return (
            f"{self.layer} against {self.against}: {kept}relative error {self.relative_error:.2g} over {self.rows:,} "
            f"rows (tolerance {self.tolerance:g}), worst {self.worst_error:.2g} at row {self.worst_row}; standardised "
            f"cosine {self.cosine:.4f}, other rows {self.control:.4f}."
        )


def measure(
    writer: StoreWriter, source: Layer, layers: Sequence[Layer], commits: Mapping[str, Mapping[int, Commit]]
) -> Agreement:
    """Read every row of a layer and of its original, both checked, and compare them.

    Args:
        writer: of the store.
        source: the original.
        layers: the scales, if any, and the latents that were made from it.
        commits: layer name -> all of its shards.
    """
    latents, state = layers[-1], writer.state
    holes = {row for commit in commits[source.name].values() for row, _ in commit.holes}
    shards = [[row for row in state.rows_of_shard(shard) if row not in holes] for shard in range(state.shard_count)]
    numbers = np.array([row for rows in shards for row in rows], np.int64)
    sample = read_committed(writer.storage, source, commits[source.name], calibration_rows(numbers).tolist())
    sums = _Sums.of(sample.astype(np.float32), latents.coding)
    read = (source, latents, *layers[:-1])
    reader = CommittedRows(writer.storage, [(layer, commits[layer.name]) for layer in read])
    with ProgressBar(len(numbers), "compare", unit="rows") as progress:
        for rows in shards:
            safe_point()
            if not rows:
                continue
            original, stored, *scales = reader.read(rows)
            sums.add(rows, original.astype(np.float32), as_float(latents, stored, scales[0] if scales else None))
            progress.update(len(rows))
    reader.close()
    return sums.result(latents, source)


class _Sums:
    """What is summed over rows."""

    def __init__(self, mean_D: NDArray[np.float32], spread_D: NDArray[np.float32], coding: Coding | None) -> None:
        self._mean_D, self._spread_D = mean_D, spread_D
        self._coding = coding if coding is not None and coding.count else None
        self._on_axes = self._off_mean = 0.0
        self._difference = self._size = self._cosine = self._control = 0.0
        self._rows = self._tokens = 0
        self._worst = (-1.0, -1)
        self._last: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, sample_RTD: NDArray[np.float32], coding: Coding | None) -> _Sums:
        """Begin with the channels' mean and spread in a sample, and with the coding of the new layer."""
        return cls(sample_RTD.mean(axis=(0, 1)), sample_RTD.std(axis=(0, 1)) + np.float32(1e-12), coding)

    def add(self, rows: Sequence[int], original_RTD: NDArray[np.float32], stored_RTD: NDArray[np.float32]) -> None:
        """Count rows."""
        if self._coding is not None:
            on_axes, off_mean = kept_variance(original_RTD, self._coding)
            self._on_axes, self._off_mean = self._on_axes + on_axes, self._off_mean + off_mean
        centred = original_RTD - self._mean_D
        difference_R = np.square(stored_RTD - original_RTD).sum(axis=(1, 2), dtype=np.float64)
        size_R = np.square(centred).sum(axis=(1, 2), dtype=np.float64)
        self._difference, self._size = self._difference + difference_R.sum(), self._size + size_R.sum()
        error_R = np.sqrt(difference_R / np.maximum(size_R, 1e-24))
        worst = int(error_R.argmax())
        self._worst = max(self._worst, (float(error_R[worst]), rows[worst]))
        a, b = _unit(centred / self._spread_D), _unit((stored_RTD - self._mean_D) / self._spread_D)
        shifted = np.roll(a, 1, axis=0)
        if self._last is not None:
            shifted[0] = self._last
        self._cosine += float((a * b).sum(dtype=np.float64))
        self._control += float((shifted * b).sum(dtype=np.float64))
        self._rows, self._tokens, self._last = self._rows + len(a), self._tokens + a.shape[0] * a.shape[1], a[-1]

    def result(self, layer: Layer, source: Layer) -> Agreement:
        """Return what all rows together give."""
        tokens = max(1, self._tokens)
        error = float(np.sqrt(self._difference / max(self._size, 1e-24)))
        return Agreement(
            layer.name, source.name, self._rows, error, self._worst[1], self._worst[0],
            self._cosine / tokens, self._control / tokens, _tolerance(layer),
            None if self._coding is None else self._on_axes / max(self._off_mean, 1e-24),
        )  # fmt: skip


def _tolerance(layer: Layer) -> float:
    """Return the largest relative error that a layer's form explains.

    What axes and int4 leave out depends on the latents: twice what half of the sample said of the other half.
    """
    if layer.coding is None:
        return _TOLERANCE[layer.dtype]
    return float(f"{2 * layer.coding.error + 0.01:.3g}")


def _unit(values_RTD: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = values_RTD / (np.linalg.norm(values_RTD, axis=2, keepdims=True) + np.float32(1e-12))
    return unit
