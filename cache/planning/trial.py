"""Time a small build: shards of a sample, made by the build's own pipeline.

Decoding, teacher and writing share cores, memory and disk, so what they reach together can't be computed from what
each reaches alone. The rate between the first finished shard and the last is that of a long build.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.building.latent_job import LatentJob
from usjepa.cache.building.pipeline import Observer, make_shards
from usjepa.cache.building.prepare import calibrated
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.interrupt import safe_point
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.calibration import is_calibrated
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.batch_size import choose_batch_size
from usjepa.cache.teacher.device import synchronise
from usjepa.cache.teacher.layers import latent_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from usjepa.cache.planning.sample import Sample
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.store.commits import Commit
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Pass

_SHARDS = 6
"""Shards that a trial makes where time allows: the first fills the pipeline, the others show its rate."""
_FEWEST = 3


_CALIBRATION_ROWS = 24
"""Fewer than a build takes: their latents are computed for nothing but what is told of them."""


@dataclass(frozen=True)
class CodingFound:
    """How near a layer on axes, or of int4, comes to its teacher; of rows that its axes were not found in."""

    layer: str
    channels: int
    axes: int
    """0: all channels are kept."""
    kept: float
    """Share of the variance that the axes keep."""
    error: float
    """Relative, of latents read back."""
    rows: int
    """Rows that were looked at."""


@dataclass(frozen=True)
class Trial:
    """Seconds; a rate is given as seconds a row."""

    row: float
    """All stages at once, as a build runs them."""
    decode: float
    """Decoding alone, by all processes that decode."""
    teacher: float
    """The teacher alone; 0 without one."""
    teacher_at_work: float
    """The teacher beside the other stages, with which it shares cores; 0 without one."""
    write: float
    """Publishing and committing, fsync included."""
    fill: float
    """What start and end cost beside the rows' own time: children start, the first shard is decoded."""
    rows: int
    """Rows that the figures rest on."""
    codings: tuple[CodingFound, ...] = ()
    """Of layers on axes or of int4, what a few rows of the sample tell."""


class _Watch(Observer):
    """Note when shards are done, and end the trial when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.start, self._seconds = time.perf_counter(), seconds
        self.ends: list[tuple[float, int]] = []
        """(when, rows) of each finished shard."""

    def written(self, rows: int) -> None:
        """Take note of a finished shard."""
        self.ends.append((time.perf_counter(), rows))

    def has_enough(self) -> bool:
        """Return whether the time is over; three shards are made all the same, and one if they take twice as long."""
        wanted = _FEWEST if time.perf_counter() - self.start < 2 * self._seconds else 1
        return len(self.ends) >= wanted and time.perf_counter() - self.start > self._seconds


def batch_of(model: Pass, settings: CacheSettings) -> int:
    """Return the teacher's images per forward pass, as a build would choose them."""
    assert settings.teacher is not None  # the plan's own, of which `model` was loaded
    channels = 1 if settings.preprocess.grey else 3
    return choose_batch_size(model, settings.teacher, channels, settings.image_size, ()).size


def teacher_seconds(model: Pass, settings: CacheSettings, batch: int, seconds: float) -> float:
    """Return the seconds per image of the teacher alone: the median of whole batches, after one that warms it up."""
    channels = 1 if settings.preprocess.grey else 3
    shape = (batch, channels, settings.image_size, settings.image_size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    took: list[float] = []
    while len(took) < 3 or (sum(took) < seconds and len(took) < 50):
        safe_point()
        start = time.perf_counter()
        model(pixels)
        synchronise(model.device)
        took.append(time.perf_counter() - start)
        if len(took) >= 2 and sum(took) > 4 * seconds:
            break
    return float(np.median(took[1:])) / batch


def run_trial(
    folder: Path,
    listing: Listing,
    sample: Sample,
    settings: CacheSettings,
    model: Pass | None,
    teacher_alone: float,
    seconds: float,
) -> Trial:
    """Build a sample's first shards into a folder that the caller removes.

    Args:
        folder: where the trial's store goes.
        listing: the whole source.
        sample: sources of it, scanned.
        settings: of the build that is planned.
        model: the teacher, none for pixels alone.
        teacher_alone: seconds per image, from `teacher_seconds`.
        seconds: how long it may take; three shards are made all the same, and one if they take twice as long.
    """
    table = sample.table
    rows = row_table(table, settings, sample.hashes)
    batch = 1 if model is None else batch_of(model, settings)
    writer = StoreWriter(LocalStorage(folder))
    writer.create_or_open(_rows_per_shard(len(rows), settings.rows_per_shard, batch, teacher_alone, seconds))
    writer.add_segment(table.to_parquet(), rows.to_parquet(), len(rows))
    pixels, latents = _layers(settings, model, writer.state.rows_per_shard)
    for layer in (*pixels, *(layer for layer in latents if is_calibrated(layer))):
        writer.add_layer(layer)
    job = None if model is None else LatentJob(model, tuple(latents), batch, model.teachers[0].soft)
    watch = _Watch(seconds)
    with contextlib.closing(Cutters(writer.storage, writer.state.segments, listing, settings)) as cutters:
        none_done: dict[str, dict[int, Commit]] = {layer.name: {} for layer in (*pixels, *latents)}
        maker = ShardMaker(writer, none_done, cutters, skip_errors=True, job=job)
        if job is not None:
            maker = calibrated(maker, job, _CALIBRATION_ROWS)
            watch = _Watch(seconds)
        make_shards(maker, range(writer.state.shard_count), watch)
    timing = _timing(maker, watch, cutters.lookahead, teacher_alone)
    return replace(timing, codings=() if maker.job is None else tuple(_codings(maker.job.layers)))


def _codings(layers: Sequence[Layer]) -> Iterator[CodingFound]:
    for layer in layers:
        if (coding := layer.coding) is not None:
            found = coding.width, coding.count, coding.kept, coding.error, coding.sample_rows
            yield CodingFound(layer.name, *found)


def _rows_per_shard(rows: int, wanted: int, batch: int, teacher_alone: float, seconds: float) -> int:
    """Return the shard size of the trial: the build's, less where too few such shards would be made."""
    in_time = seconds / _SHARDS / teacher_alone if teacher_alone else wanted
    most = min(wanted, int(in_time), rows // _SHARDS)
    return max(most // batch * batch, min(batch, max(rows // _SHARDS, 1)))


def _layers(
    settings: CacheSettings, model: Pass | None, rows_per_shard: int
) -> tuple[tuple[Layer, Layer], list[Layer]]:
    """Return the layers of pixels and those of latents."""
    pixels = pixel_layers(settings, rows_per_shard)
    latents: list[Layer] = []
    for teacher in () if model is None else model.teachers:
        latents += latent_layers(teacher, settings.form, pixels[0], rows_per_shard)
    if settings.form.coded:
        return pixels, latents  # how near they come is to be told
    # Any scale will do: it changes the latents' bytes, not the time they take.
    return pixels, [replace(x, channel_scale=(1.0,) * x.shape[1]) if x.dtype == "int8" else x for x in latents]


def _timing(maker: ShardMaker, watch: _Watch, lookahead: int, teacher_alone: float) -> Trial:
    decode, teacher, write = (maker.stages.seconds_per_row(stage) for stage in ("decode", "teacher", "write"))
    done = sum(rows for _, rows in watch.ends)
    if len(watch.ends) < 2:
        return Trial(max(decode, teacher_alone, write), decode, teacher_alone, teacher, write, 0.0, done)
    row = _steady_row(watch.ends, lookahead if len(watch.ends) == maker.writer.state.shard_count else 0)
    fill = max(watch.ends[-1][0] - watch.start - done * row, 0.0)
    return Trial(row, decode, teacher_alone, teacher, write, fill, done - watch.ends[0][1])


def _steady_row(ends: list[tuple[float, int]], idle: int) -> float:
    """Return seconds a row between the first finished shard and the last that was made while others were decoded.

    Args:
        ends: (when, rows) of each finished shard, two or more.
        idle: shards at the end during which nothing was left to decode; they are made faster than most.
    """
    last = max(len(ends) - 1 - idle, 1)
    return (ends[last][0] - ends[0][0]) / sum(rows for _, rows in ends[1 : last + 1])
