"""Compute what a build will take from what was measured.

Plain arithmetic, each formula once; docs/scaling.md prints them.

F frames, K views, R = F K rows, b bytes per row, t seconds per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.building.disk_space import BLOCK_NBYTES, MANIFEST_COPIES, Need, Room, need_of_shards
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.store.calibration import sample_size
from usjepa.cache.store.precision import bytes_per_row
from usjepa.cache.store.shard import ShardLayout

if TYPE_CHECKING:
    from usjepa.cache.coding.form import Form, LatentPrecision
    from usjepa.cache.planning.sample import Estimate
    from usjepa.cache.planning.target import TargetRates
    from usjepa.cache.planning.trial import Trial
    from usjepa.cache.recipes.cache import CacheSettings

_TABLE_NBYTES_PER_ROW = 8
"""Of the segment's Parquet tables, compressed; measured on the phantom and on folders of images."""
_CALIBRATION_NBYTES = 24
"""Of one feature's scale, as JSON."""


@dataclass(frozen=True)
class Measured:
    """Everything that a forecast rests on; seconds and bytes."""

    sources: int
    sampled: int
    """Sources that were scanned for the sample."""
    frames: Estimate
    frames_by_dataset: dict[str, float]
    scan: Estimate
    """Seconds of the whole scan."""
    loading: float
    """Seconds until libraries and teacher are loaded."""
    trial: Trial
    rates: TargetRates
    latents: tuple[tuple[int, int], ...]
    """(T, D) of each layer of latents that the teacher fills; none without a teacher."""
    room: Room


@dataclass(frozen=True)
class Forecast:
    """Predicted rows, bytes, inodes and seconds of one build."""

    precision: LatentPrecision
    axes: int | None
    views: int
    rows: int
    nbytes: int
    files: int
    seconds: float
    slowest: str
    """scan, decode, teacher or write."""
    pays_from_epoch: int | None
    """Epochs after which build and reads together have cost less than the teacher in the loop; none: never, or no
    teacher."""
    fits: bool


Latents = Sequence[tuple[int, int]]
"""(T, D) of each layer of latents."""


def _row_layers(settings: CacheSettings, form: Form, latents: Latents) -> list[int]:
    """Return the bytes of a row in each layer."""
    sizes = [layer.row_nbytes for layer in pixel_layers(settings, settings.rows_per_shard)]
    for tokens, dim in latents:
        sizes.append(form.row_nbytes(tokens, dim))
        sizes += [4 * tokens] if form.scaled else []
    return sizes


def row_nbytes(settings: CacheSettings, form: Form, latents: Latents) -> int:
    """Return the bytes of a row over all layers."""
    return sum(_row_layers(settings, form, latents))


def _calibration_nbytes(form: Form, dim: int) -> int:
    """Return the bytes of what is found in a sample, as a layer's description holds it: JSON, arrays in base64."""
    scales = (form.axes or dim) * _CALIBRATION_NBYTES if form.scaled else 0
    offset_and_axes = 4 * dim + 2 * (form.axes or 0) * dim if form.coded else 0
    return scales + offset_and_axes * 4 // 3


def _need_of_store(settings: CacheSettings, form: Form, latents: Latents, rows: int) -> Need:
    """Return the bytes and inodes of a store of `rows` rows."""
    full, rest = divmod(rows, settings.rows_per_shard)
    sizes: list[tuple[int, int]] = []
    for nbytes in _row_layers(settings, form, latents):
        layout = ShardLayout(settings.rows_per_shard, nbytes)
        sizes += [(full, layout.size(settings.rows_per_shard))] + ([(1, layout.size(rest))] if rest else [])
    need = need_of_shards(sizes)
    layers = len(_row_layers(settings, form, latents))
    found = sum(_calibration_nbytes(form, dim) for _, dim in latents)
    # Each layer is described in a block, and what was found in a sample there and in every copy of the manifest.
    described = (layers + 6) * BLOCK_NBYTES + (1 + MANIFEST_COPIES) * found
    # Folders of layers and commits, their descriptions, the segment's folder and three files, the store's own.
    return Need(need.nbytes + rows * _TABLE_NBYTES_PER_ROW + described, need.files + 4 * layers + 10)


def forecast(measured: Measured, settings: CacheSettings, form: Form, views: int, dataset_cap: int) -> Forecast:
    """Predict a build of the measured source in some form with some number of views."""
    rows = round(measured.frames.value) * views
    need = _need_of_store(settings, form, measured.latents, rows)
    trial = measured.trial
    # A disk's cache takes a trial's few shards at once, and a long build at the sustained rate.
    sustained = need.nbytes / max(rows, 1) / measured.rates.write
    row = max(trial.row, sustained)
    sample = min(rows, sample_size(form.axes is not None)) if form.calibrated and measured.latents else 0
    calibration = sample * (trial.decode + trial.teacher)
    work = rows * row
    parts = {
        "scan": measured.scan.value,
        "decode": rows * trial.decode,
        "teacher": rows * trial.teacher_at_work,
        "write": rows * max(trial.write, sustained),
    }
    seconds = measured.loading + measured.scan.value + trial.fill + calibration + work
    fits = need.nbytes <= measured.room.nbytes and (measured.room.files is None or need.files <= measured.room.files)
    return Forecast(
        form.precision,
        form.axes,
        views,
        rows,
        need.nbytes,
        need.files,
        seconds,
        max(parts, key=lambda name: parts[name]),
        _pays_from(measured, form, seconds, dataset_cap),
        fits,
    )


def _pays_from(measured: Measured, form: Form, build_seconds: float, dataset_cap: int) -> int | None:
    """Return the first epoch by which caching has cost less time than the teacher in the loop.

    An epoch draws E = sum over datasets of min(|D|, cap) frames. Either way it costs the student's steps; beside them
    E times the teacher in the loop, or E reads of latents, counted in full though they overlap with the steps. So
    e > build / (E (teacher - read)). Pixels are read either way, and of several layers of latents each.
    """
    if not measured.latents:
        return None
    drawn = sum(min(frames, dataset_cap) for frames in measured.frames_by_dataset.values())
    read = sum(bytes_per_row(form, *shape) for shape in measured.latents) / measured.rates.read
    saved = drawn * (measured.trial.teacher - read)
    return math.floor(build_seconds / saved) + 1 if saved > 0 else None
