"""Make one shard: cut or read back its pixels, compute latents, publish it.

A build in one process, in parts or on a cluster, and a repair: all make shards here, so they make the same bytes.
Batches of the teacher never cross a shard, hence a shard's latents do not depend on which shards were made before it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.building.committed_rows import CommittedRows
from usjepa.cache.building.stages import Stages
from usjepa.cache.errors import UsageError
from usjepa.cache.frames.layers import pixel_soft
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.lazy import lazy
from usjepa.cache.reading.batch_memory import BatchMemory, Ring
from usjepa.cache.store.origins.table import origin_of
from usjepa.cache.store.precision import LatentError
from usjepa.cache.teacher.computing import LatentComputer, PendingLatents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.cache.building.latent_job import LatentJob
    from usjepa.cache.decoding.cutters import Cutters
    from usjepa.cache.identity import Json
    from usjepa.cache.store.commits import Commit, Commits
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.writer import StoreWriter


WRITERS = 2
"""Shards that are written at once: one is packed and hashed while the disk still takes in the other."""


class Latents(NamedTuple):
    """A shard's latents as they are stored, once none is pending."""

    arrays: dict[str, NDArray[Any]]
    """Layer name -> [rows, *shape] of the stored dtype, scales before latents as they are written."""
    pending: PendingLatents
    memory: BatchMemory
    """Where they lie."""


@dataclass
class ShardMaker:
    """Everything that making a shard needs, in one process."""

    writer: StoreWriter
    commits: Commits
    """Finished shards, as far as they are known here."""
    cutters: Cutters | None = None
    """Cut rows from their sources; none when all pixels are stored already."""
    skip_errors: bool = False
    job: LatentJob | None = None
    """None: pixels and regions only."""
    stages: Stages = field(default_factory=Stages)

    @property
    def layers(self) -> list[Layer]:
        """All layers that a shard is made of here."""
        stored = [self.writer.state.layers[name] for name in ("pixels", "regions")]
        return stored if self.job is None else [*stored, *self.job.layers]

    @property
    def lookahead(self) -> int:
        """Shards that are cut or read back at once."""
        return self.cutters.lookahead if self.cutters is not None else 1

    def is_done(self, shard: int) -> bool:
        """Return whether every wanted layer has the shard."""
        return all(shard in self.commits[layer.name] for layer in self.layers)

    def has_pixels(self, shard: int) -> bool:
        """Return whether pixels and regions of the shard are stored."""
        return shard in self.commits["pixels"] and shard in self.commits["regions"]

    def pixels_of(self, shard: int, turn: int | None = None) -> PixelShard:
        """Return the shard's pixels: from the store where they are built, else from the sources, in its turn."""
        numbers = self.writer.state.rows_of_shard(shard)
        if self.has_pixels(shard):
            with self.stages.time("read", len(numbers)):
                return self._stored_pixels(shard, numbers)
        with self.stages.time("decode", len(numbers)):
            return self.cut(shard, numbers, turn)

    def cut(self, shard: int, numbers: range, turn: int | None = None) -> PixelShard:
        """Cut rows of a shard from their sources; see `Cutters.cut`."""
        if self.cutters is None:
            raise UsageError("pixels have to be cut from the sources, which were not given: add --source FOLDER.")
        segment = self.writer.state.segment_of_shard(shard).number
        return self.cutters.cut(segment, numbers, self.skip_errors, turn)

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
        (pixels,) = self._stored.read(rows)
        if missing:
            found, pixels = pixels, np.zeros((len(numbers), *pixels.shape[1:]), np.uint8)
            pixels[[row - numbers.start for row in rows]] = found
        return PixelShard(pixels, np.empty((0,), np.uint8), holes)

    @lazy
    def _stored(self) -> CommittedRows:
        return CommittedRows(self.writer.storage, [(self.writer.state.layers["pixels"], self.commits["pixels"])])

    @lazy
    def _memories(self) -> Ring:
        """One that the teacher fills, and those that are written: touching fresh memory costs as much as either."""
        return Ring(WRITERS + 1, pinned=self.job is not None and self.job.run.device.type == "cuda")

    @lazy
    def _computer(self) -> LatentComputer:
        assert self.job is not None
        return LatentComputer(self.job.run, self.job.layers, self.job.batch_size)

    @contextmanager
    def naming_frames(self) -> Iterator[None]:
        """Add the source, frame and view of a row to a LatentError that names it, within a `with` block."""
        try:
            yield
        except LatentError as error:
            origin = origin_of(self.writer.storage, self.writer.state.segments, error.row)
            raise LatentError(error.row, f"{error.message} It shows {origin}.") from error

    def latents_of(self, shard: int, made: PixelShard) -> Latents | None:
        """Have a shard's latents computed, of those teachers that it lacks; none when all are stored already.

        On a GPU the last of them may not have arrived yet: `write` waits for them, in its own thread.
        """
        layers = self.job.layers if self.job is not None else ()
        lacking = {layer.teacher for layer in layers if shard not in self.commits[layer.name]}
        if not lacking:
            return None
        first_row, memory = self.writer.state.rows_of_shard(shard).start, self._memories.take()
        try:
            wanted = {layer.name: layer for layer in layers if layer.teacher in lacking}
            arrays = memory.arrays(wanted, len(made.pixels))
            with self.naming_frames(), self.stages.time("teacher", len(made.pixels)):
                pending = self._computer.compute(made.pixels, made.exists(first_row), first_row, arrays)
        except BaseException:
            self._memories.release(memory)
            raise
        return Latents(arrays, pending, memory)

    def stored_latents(
        self, pixels: NDArray[np.uint8], exists: NDArray[np.bool_], first_row: int
    ) -> dict[str, NDArray[Any]]:
        """Return the latents of consecutive rows as they are stored, an array [n, *shape] per layer.

        Args:
            pixels: uint8 [n, C, S, S].
            exists: [n] false at holes, whose latents mean nothing.
            first_row: the number of the first row.
        """
        assert self.job is not None
        into = {layer.name: np.empty((len(pixels), *layer.shape), layer.dtype) for layer in self.job.layers}
        with self.naming_frames():
            self._computer.compute(pixels, exists, first_row, into).wait()
        return into

    def write(self, shard: int, made: PixelShard, latents: Latents | None) -> None:
        """Publish and commit every layer of a shard that is not stored yet, and free the latents' memory."""
        try:
            arrays = self._arrived(latents) if latents is not None else {}
            with self.stages.time("write", len(made.pixels)):
                commits = self._write(shard, made, arrays)
        finally:
            if latents is not None:
                self._memories.release(latents.memory)
        self.stages.add_bytes(sum(commit.size for commit in commits))

    def _arrived(self, latents: Latents) -> dict[str, NDArray[Any]]:
        with self.naming_frames():
            latents.pending.wait()
        return latents.arrays

    def _write(self, shard: int, made: PixelShard, latents: dict[str, NDArray[Any]]) -> list[Commit]:
        layers = self.writer.state.layers
        commits = []
        if not self.has_pixels(shard):
            soft: dict[str, Json] = pixel_soft()
            for name, rows in (("regions", made.regions), ("pixels", made.pixels)):
                told = made.holes, soft, made.blank, made.doubtful
                commits.append(self.writer.write_shard(layers[name], shard, rows, *told))
        for name, values in latents.items():
            assert self.job is not None
            commits.append(self.writer.write_shard(layers[name], shard, values, made.holes, self.job.soft))
        return commits
