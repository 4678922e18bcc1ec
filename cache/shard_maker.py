"""Makes one shard: pixels and regions cut from sources or read back, latents asked of the teacher, all published.

What builds in one process, in parts, on a cluster, and what repairs: all make shards here, so they make the same bytes.
Batches of the teacher never cross a shard, hence a shard's latents do not depend on which shards were made before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.latents import ask_teacher, latent_layers, stored_form
from usjepa.cache.origins import naming_frames
from usjepa.cache.pixels import PixelShard, pixel_soft
from usjepa.cache.recheck import read_committed
from usjepa.cache.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.commits import Commit
    from usjepa.cache.identity import Json
    from usjepa.cache.isolation import Cutters
    from usjepa.cache.layers import Layer
    from usjepa.cache.settings import LatentPrecision
    from usjepa.cache.state import State
    from usjepa.cache.teacher import Teacher
    from usjepa.cache.writer import StoreWriter


def teacher_layers(teacher: Teacher, precision: LatentPrecision, state: State) -> list[Layer]:
    """Return the layers that a teacher fills; an int8 layer with the calibration that the store keeps."""
    layers = latent_layers(teacher, precision, state.layers["pixels"], state.rows_per_shard)
    stored = state.layers.get(f"latents/{teacher.name}")
    scale = stored.channel_scale if stored is not None else ()
    return [replace(layer, channel_scale=scale) if layer.dtype == "int8" else layer for layer in layers]


@dataclass
class ShardMaker:
    """Everything that making a shard needs, in one process."""

    writer: StoreWriter
    cutters: Cutters | None
    """What cuts rows from their sources; none when all pixels are stored already."""
    commits: dict[str, dict[int, Commit]]
    """Layer name -> finished shards, as far as they are known here."""
    skip_errors: bool
    check: Callable[[], None]
    """Called at safe points; may raise to stop."""
    model: Teacher | None = None
    latents: list[Layer] = field(default_factory=list)
    """The teacher's layers; empty without a teacher."""
    batch_size: int = 1
    soft: dict[str, Json] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)

    @property
    def layers(self) -> list[Layer]:
        """All layers that a shard is made of here."""
        return [self.writer.state.layers[name] for name in ("pixels", "regions")] + self.latents

    def is_done(self, shard: int) -> bool:
        """Return whether every wanted layer has the shard."""
        return all(shard in self.commits[layer.name] for layer in self.layers)

    def has_pixels(self, shard: int) -> bool:
        """Return whether pixels and regions of the shard are stored."""
        return shard in self.commits["pixels"] and shard in self.commits["regions"]

    def make(self, shard: int) -> None:
        """Make and publish what a shard lacks."""
        made = self.pixels_of(shard)
        self.write(shard, made, self.latents_of(shard, made))

    def pixels_of(self, shard: int) -> PixelShard:
        """Return the shard's pixels: from the store where they are built, else from the sources."""
        numbers = self.writer.state.rows_of_shard(shard)
        if self.has_pixels(shard):
            with self.stages.time("read"):
                return self._stored_pixels(shard, numbers)
        with self.stages.time("decode"):
            return self.cut(shard, numbers)

    def cut(self, shard: int, numbers: range) -> PixelShard:
        """Cut rows of a shard from their sources."""
        if self.cutters is None:
            raise UsageError("pixels have to be cut from the sources, which were not given: add --source FOLDER.")
        segment = self.writer.state.segment_of_shard(shard).number
        return self.cutters[segment].make(numbers, self.skip_errors, self.check)

    def one_row(self, row: int) -> PixelShard:
        """Return a single row's pixels, wherever they come from."""
        shard = row // self.writer.state.rows_per_shard
        wanted = range(row, row + 1)
        return self._stored_pixels(shard, wanted) if self.has_pixels(shard) else self.cut(shard, wanted)

    def _stored_pixels(self, shard: int, numbers: range) -> PixelShard:
        commits = self.commits["pixels"]
        holes = [hole for hole in commits[shard].holes if hole[0] in numbers]
        missing = {row for row, _ in holes}
        rows = [row for row in numbers if row not in missing]
        layer = self.writer.state.layers["pixels"]
        pixels: NDArray[np.uint8] = np.zeros((len(numbers), *layer.shape), np.uint8)
        pixels[[row - numbers.start for row in rows]] = read_committed(self.writer, layer, commits, rows)
        return PixelShard(pixels, np.empty((0,), np.uint8), holes)

    def latents_of(self, shard: int, made: PixelShard) -> NDArray[np.float32] | None:
        """Return the teacher's float32 latents of a shard; none when they are stored already."""
        if self.model is None or all(shard in self.commits[layer.name] for layer in self.latents):
            return None
        numbers = self.writer.state.rows_of_shard(shard)
        with naming_frames(self.writer), self.stages.time("teacher"):
            return ask_teacher(self.model, made.pixels, np.array(numbers), self.batch_size, self.check)

    def stored(self, latents_RTD: NDArray[np.float32], first_row: int) -> dict[str, NDArray[Any]]:
        """Return float32 latents as the teacher's layers store them, by layer name."""
        found: dict[str, NDArray[Any]] = {}
        for layer in self.latents:
            if layer.name.startswith("latents/"):
                with naming_frames(self.writer):
                    found[layer.name], scales = stored_form(latents_RTD, layer, first_row)
                if scales is not None:
                    found[layer.name.replace("latents/", "scales/")] = scales
        return found

    def write(self, shard: int, made: PixelShard, latents_RTD: NDArray[np.float32] | None) -> None:
        """Bring latents into stored precision; publish and commit every layer of a shard that is not stored yet."""
        if latents_RTD is None:
            stored = {}
        else:
            with self.stages.time("quantise"):
                stored = self.stored(latents_RTD, self.writer.state.rows_of_shard(shard).start)
        layers = self.writer.state.layers
        commits = []
        with self.stages.time("write"):
            if not self.has_pixels(shard):
                soft: dict[str, Json] = pixel_soft()
                for name, rows in (("regions", made.regions), ("pixels", made.pixels)):
                    commits.append(self.writer.write_shard(layers[name], shard, rows, made.holes, soft))
            for name, values in stored.items():
                commits.append(self.writer.write_shard(layers[name], shard, values, made.holes, self.soft))
        self.stages.add("write", 0.0, sum(commit.size for commit in commits))
