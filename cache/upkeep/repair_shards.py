"""Repair one shard: keep proven rows, remake the others, publish only what is proven.

Pixels and regions must come out with the very bytes of before. So must latents, where the same library versions ran
on the same CPU; elsewhere they may differ within the recheck's tolerance, measured on rows that survived.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.recheck import as_float, as_kept, recheck_latents, relative_error, tolerance_of
from usjepa.cache.errors import DamageError
from usjepa.cache.store.commits import Commit, read_commit
from usjepa.cache.store.descriptions import commit_of, present_rows
from usjepa.cache.teacher.batch_size import kept_batch_size
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.upkeep.salvage import Salvaged, assemble, salvage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.building.latent_job import LatentJob
    from usjepa.cache.building.shard_maker import ShardMaker
    from usjepa.cache.identity import Json
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Teacher

_COMPARED_ROWS = 8
Rows = dict[int, bytes]


@dataclass(frozen=True)
class Mended:
    """A shard that is whole again."""

    layer: str
    shard: int
    rows: tuple[int, ...]
    """The rows that were made again."""
    table: str
    exact: bool
    """Whether its bytes are those of before."""
    soft: dict[str, Json] = field(default_factory=dict)
    error: float = 0.0
    """Relative error of rows that survived, computed again, where the bytes are not those of before."""

    def __str__(self) -> str:
        how = "the same bytes as before" if self.exact else f"within tolerance (relative error {self.error:.1e})"
        return f"{self.layer}, shard {self.shard}: {len(self.rows)} rows made again, {how}"

    def record(self) -> dict[str, Json]:
        """Return what the manifest keeps of it."""
        kept: dict[str, Json] = {
            "layer": self.layer, "shard": self.shard, "rows": list(self.rows), "exact": self.exact
        }  # fmt: skip
        return kept if self.exact else {**kept, "relative_error": self.error}


class ShardRepair:
    """Repair shards of one store against one of its manifests."""

    def __init__(self, maker: ShardMaker, manifest: Manifest) -> None:
        self._maker, self._manifest = maker, manifest
        self._storage = maker.writer.storage
        self._makers: dict[str, ShardMaker] = {}
        """Teacher -> what computes its latents alone."""

    def mend(self, layer: str, shard: int) -> list[Mended]:
        """Mend a shard; latents together with their scales.

        Raises:
            DamageError: it can't be mended; the message says what is missing.
            SourceError: its source can't be read or is another one.
        """
        damaged = self._manifest.layers[layer]
        try:
            if damaged.teacher is None:
                return [self._cut_again(damaged, shard)]
            return self._compute_again(damaged.teacher, shard)
        except DamageError as error:
            error.layer, error.shard = layer, shard
            raise

    def _salvage(self, layer: Layer, shard: int) -> Salvaged:
        present, table = present_rows(self._manifest, shard), self._manifest.tables[layer.name][shard]
        return salvage(self._storage, layer, shard, present, table)

    def _publish(self, layer: Layer, data: memoryview, commit: Commit) -> None:
        """Publish a shard with its record; what the record before told of its rows is kept."""
        with contextlib.suppress(DamageError):
            before = read_commit(self._maker.writer.storage, layer, commit.shard)
            if before is not None:
                commit = replace(commit, blank=before.blank, doubtful=before.doubtful)
        self._maker.writer.publish_shard(layer, data, commit)
        self._maker.commits[layer.name][commit.shard] = commit

    def _exact(self, layer: Layer, shard: int, kept: Rows, made: Mapping[int, bytes]) -> Mended | None:
        """Publish a shard if kept and made rows give the very table of before."""
        data, table = assemble(layer, shard, {**made, **kept})
        if table != self._manifest.tables[layer.name][shard]:
            return None
        self._publish(layer, data, commit_of(self._manifest, layer, shard, len(data)))
        rows = tuple(row for row in present_rows(self._manifest, shard) if row not in kept)
        return Mended(layer.name, shard, rows, table, exact=True)

    def _cut_again(self, layer: Layer, shard: int) -> Mended:
        if self._maker.cutters is None:
            raise DamageError(
                "its rows must be cut again from the sources: give --source (and --pipeline) as for build."
            )
        present, saved = present_rows(self._manifest, shard), self._salvage(layer, shard)
        made: Rows = {}
        for kept in _hopes(saved):
            made |= self._cut(layer, shard, [row for row in present if row not in kept and row not in made])
            mended = self._exact(layer, shard, kept, made)
            if mended is not None:
                return mended
        raise DamageError(
            "its rows cut again are not those that were built: other versions of the imaging libraries read them "
            "differently. Install those that `status` shows."
        )

    def _cut(self, layer: Layer, shard: int, rows: Sequence[int]) -> Rows:
        """Cut rows again, runs of neighbours together."""
        made: Rows = {}
        for run in _runs(rows):
            cut = self._maker.cut(shard, run)
            array = cut.pixels if layer.name == "pixels" else cut.regions
            made |= {row: array[i].tobytes() for i, row in enumerate(run)}
        return made

    def _compute_again(self, name: str, shard: int) -> list[Mended]:
        job = self._maker_of(name).job
        if job is None:
            raise DamageError(f"its rows must be computed by the teacher {name!r} again: give --teacher as for build.")
        if not self._maker.has_pixels(shard):
            raise DamageError("its pixels are damaged too and could not be mended.")
        layers = [self._manifest.layers[layer.name] for layer in job.layers]
        present = present_rows(self._manifest, shard)
        saved = {layer.name: self._salvage(layer, shard) for layer in layers}
        hoped = {layer: salvaged.proven or salvaged.candidates for layer, salvaged in saved.items()}
        proven = {layer: salvaged.proven for layer, salvaged in saved.items()}
        made = self._latents(job, shard, [row for row in present if any(row not in rows for rows in hoped.values())])
        exact = self._all_exact(layers, shard, hoped, made)
        if exact is None:
            made = self._latents(job, shard, present)
            exact = self._all_exact(layers, shard, proven, made)
        return self._within_tolerance(job, layers, shard, proven, made) if exact is None else exact

    def _maker_of(self, name: str) -> ShardMaker:
        """Return what computes the latents of one teacher, in the batches that its layer was built in."""
        if name not in self._makers:
            maker, commits = self._maker, self._maker.commits.get(f"latents/{name}", {})
            size = kept_batch_size(commit.soft for commit in commits.values())
            job = None if maker.job is None else maker.job.only(name, size)
            self._makers[name] = replace(maker, job=job)
        return self._makers[name]

    def _all_exact(
        self, layers: Sequence[Layer], shard: int, kept: Mapping[str, Rows], made: Mapping[str, Rows]
    ) -> list[Mended] | None:
        """Publish latents, with their scales, that give the very tables of before; None where one does not."""
        mended = [self._exact(layer, shard, kept[layer.name], made[layer.name]) for layer in layers]
        exact = [one for one in mended if one is not None]
        return exact if len(exact) == len(layers) else None

    def _latents(self, job: LatentJob, shard: int, rows: Iterable[int]) -> dict[str, Rows]:
        """Compute rows in the very batches of the build: batches decide the last bits."""
        numbers, size = self._maker.writer.state.rows_of_shard(shard), job.batch_size
        shown = self._maker.pixels_of(shard)
        exists = shown.exists(numbers.start)
        made: dict[str, Rows] = {layer.name: {} for layer in job.layers}
        for start in sorted({(row - numbers.start) // size * size for row in rows}):
            here, batch = slice(start, start + size), numbers[start : start + size]
            maker = self._maker_of(job.teachers[0].name)
            for name, stored in maker.stored_latents(shown.pixels[here], exists[here], batch.start).items():
                made[name] |= {row: stored[i].tobytes() for i, row in enumerate(batch) if exists[start + i]}
        return made

    def _within_tolerance(
        self, job: LatentJob, layers: Sequence[Layer], shard: int, proven: Mapping[str, Rows], made: Mapping[str, Rows]
    ) -> list[Mended]:
        """Publish rows that are not the bytes of before, where other versions or another device explain it."""
        if commit_of(self._manifest, layers[0], shard, 0).soft == job.soft and job.run.device.type == "cpu":
            raise DamageError(
                "recomputed latents differ from the stored ones, although library versions and device match. Check "
                "that cache.teacher.batch_size is the build's; otherwise suspect the hardware."
            )
        kept = set.intersection(*(set(proven[layer.name]) for layer in layers))
        error = self._error(job.teachers[0], layers, shard, proven, sorted(kept))
        done = []
        for layer in layers:
            rows = {**made[layer.name], **{row: proven[layer.name][row] for row in kept}}
            rows = {row: rows[row] for row in present_rows(self._manifest, shard)}
            data, table = assemble(layer, shard, rows)
            holes = commit_of(self._manifest, layer, shard, 0).holes
            self._publish(layer, data, Commit(shard, len(data), table, layer.digest, dict(job.soft), holes))
            again = tuple(row for row in rows if row not in kept)
            done.append(Mended(layer.name, shard, again, table, False, dict(job.soft), error))
        return done

    def _error(
        self, teacher: Teacher, layers: Sequence[Layer], shard: int, proven: Mapping[str, Rows], rows: Sequence[int]
    ) -> float:
        """Return the relative error of surviving rows computed again; raise DamageError beyond the tolerance."""
        latents = next(layer for layer in layers if layer.kind == "latents")
        if not rows:  # nothing of this shard survives: rows of others are computed instead
            recheck_latents(self._maker.writer, self._maker.commits, teacher)
            return 0.0
        chosen = list(rows[:_COMPARED_ROWS])
        first = self._maker.writer.state.rows_of_shard(shard).start
        pixels = self._maker.pixels_of(shard).pixels[[row - first for row in chosen]]
        again = compute_latents(teacher, pixels, np.array(chosen), len(chosen))
        arrays = {layer.name: _array(layer, [proven[layer.name][row] for row in chosen]) for layer in layers}
        scales = next((arrays[layer.name] for layer in layers if layer.kind == "scales"), None)
        error = relative_error(as_kept(latents, again), as_float(latents, arrays[latents.name], scales))
        tolerance = tolerance_of(teacher, latents)
        if error > tolerance:
            raise DamageError(
                f"rows that survived, computed again, differ by {error:.2g} (tolerance {tolerance:g}): libraries or "
                "device changed the teacher's numbers. Use those that `status` shows."
            )
        return error


def _hopes(saved: Salvaged) -> list[Rows]:
    """Return which rows to keep, the best hope first: without a table the candidates may still all be right."""
    if saved.proven:
        return [saved.proven]
    return [saved.candidates, {}] if saved.candidates else [{}]


def _runs(rows: Sequence[int]) -> list[range]:
    parts = np.split(np.asarray(rows), np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def _array(layer: Layer, rows: Sequence[bytes]) -> NDArray[np.float32]:
    joined: NDArray[np.float32] = np.frombuffer(b"".join(rows), layer.dtype).reshape(len(rows), *layer.shape)
    return joined
