"""Mends one shard: keeps the rows that are proven, makes the others again, and publishes only what can be proven.

Pixels and regions must come out with the very bytes of before. So must latents, where the same library versions ran
on the same CPU; elsewhere they may differ within the recheck's tolerance, measured on rows that survived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.recheck import as_float, recheck_latents, relative_error, tolerance_of
from usjepa.cache.errors import DamageError
from usjepa.cache.store.commits import Commit, committed
from usjepa.cache.store.descriptions import commit_of, present_rows
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.upkeep.salvage import Salvaged, assemble, salvage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

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
    """Relative error of rows that survived, asked again, where the bytes are not those of before."""

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
    """Mends shards of one store against one of its manifests."""

    def __init__(self, maker: ShardMaker, manifest: Manifest) -> None:
        self._maker, self._manifest = maker, manifest
        self._storage = maker.writer.storage

    def refresh(self, layer: str) -> None:
        """Look anew at which shards of a layer are whole."""
        self._maker.commits[layer] = committed(self._storage, self._manifest.layers[layer])

    def mend(self, layer: str, shard: int) -> list[Mended]:
        """Mend a shard; latents together with their scales.

        Raises:
            DamageError: it can't be mended; the message says what is missing.
            SourceError: its source can't be read or is another one.
        """
        mended = self._manifest.layers[layer]
        return [self._cut_again(mended, shard)] if mended.teacher is None else self._ask_again(mended.teacher, shard)

    def _salvage(self, layer: Layer, shard: int) -> Salvaged:
        present, table = present_rows(self._manifest, shard), self._manifest.tables[layer.name][shard]
        return salvage(self._storage, layer, shard, present, table)

    def _publish(self, layer: Layer, data: memoryview, commit: Commit) -> None:
        guard = self._maker.writer.guard
        self._storage.publish(layer.shard_name(commit.shard), data, guard)
        self._storage.publish(layer.commit_name(commit.shard), commit.to_bytes(), guard)

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
            "its rows cut again are not those that were built: other versions of the imaging libraries? "
            "Install those that `status` shows."
        )

    def _cut(self, layer: Layer, shard: int, rows: Sequence[int]) -> Rows:
        """Cut rows again, runs of neighbours together."""
        made: Rows = {}
        for run in _runs(rows):
            cut = self._maker.cut(shard, run)
            array = cut.pixels if layer.name == "pixels" else cut.regions
            made |= {row: array[i].tobytes() for i, row in enumerate(run)}
        return made

    def _ask_again(self, name: str, shard: int) -> list[Mended]:
        maker, model = self._maker, self._maker.model
        if model is None or model.name != name:
            raise DamageError(f"its rows must be asked of the teacher {name!r} again: give --teacher as for build.")
        if shard not in maker.commits["pixels"]:
            raise DamageError("its pixels are damaged too and could not be mended.")
        layers = [self._manifest.layers[layer.name] for layer in maker.latents]
        present = present_rows(self._manifest, shard)
        saved = {layer.name: self._salvage(layer, shard) for layer in layers}
        kept = {layer: salvaged.proven or salvaged.candidates for layer, salvaged in saved.items()}
        missing = [row for row in present if any(row not in rows for rows in kept.values())]
        made = self._ask(shard, missing)
        mended = [self._exact(layer, shard, kept[layer.name], made[layer.name]) for layer in layers]
        exact = [one for one in mended if one is not None]
        if len(exact) == len(layers):
            return exact
        made = self._ask(shard, present)
        mended = [self._exact(layer, shard, saved[layer.name].proven, made[layer.name]) for layer in layers]
        exact = [one for one in mended if one is not None]
        return exact if len(exact) == len(layers) else self._within_tolerance(model, layers, shard, saved, made)

    def _ask(self, shard: int, rows: Iterable[int]) -> dict[str, Rows]:
        """Ask for rows in the very batches that the build asked in: they decide the last bits."""
        numbers, size = self._maker.writer.state.rows_of_shard(shard), self._maker.batch_size
        shown = self._maker.pixels_of(shard)
        exists = shown.exists(numbers.start)
        made: dict[str, Rows] = {layer.name: {} for layer in self._maker.latents}
        for start in sorted({(row - numbers.start) // size * size for row in rows}):
            here, batch = slice(start, start + size), numbers[start : start + size]
            for name, stored in self._maker.stored_latents(shown.pixels[here], exists[here], batch.start).items():
                made[name] |= {row: stored[i].tobytes() for i, row in enumerate(batch) if exists[start + i]}
        return made

    def _within_tolerance(
        self, model: Teacher, layers: Sequence[Layer], shard: int, saved: dict[str, Salvaged], made: dict[str, Rows]
    ) -> list[Mended]:
        """Publish rows that are not the bytes of before, where other versions or another device explain it."""
        before = commit_of(self._manifest, layers[0], shard, 0).soft
        if before == self._maker.soft and model.device.type == "cpu":
            raise DamageError(
                "its rows asked again are not those that were built, though versions and device are the same: "
                "another batch size than the build's, or faulty hardware?"
            )
        proven = set.intersection(*(set(saved[layer.name].proven) for layer in layers))
        error = self._error(model, layers, shard, {name: s.proven for name, s in saved.items()}, sorted(proven))
        done = []
        for layer in layers:
            rows = {**made[layer.name], **{row: saved[layer.name].proven[row] for row in proven}}
            rows = {row: rows[row] for row in present_rows(self._manifest, shard)}
            data, table = assemble(layer, shard, rows)
            holes = commit_of(self._manifest, layer, shard, 0).holes
            self._publish(layer, data, Commit(shard, len(data), table, layer.digest, dict(self._maker.soft), holes))
            again = tuple(row for row in rows if row not in proven)
            done.append(Mended(layer.name, shard, again, table, False, dict(self._maker.soft), error))
        return done

    def _error(
        self, model: Teacher, layers: Sequence[Layer], shard: int, proven: dict[str, Rows], rows: Sequence[int]
    ) -> float:
        """Return the relative error of surviving rows asked again; raise DamageError beyond the tolerance."""
        latents = next(layer for layer in layers if layer.kind == "latents")
        if not rows:  # nothing of this shard survives: rows of others are asked instead
            recheck_latents(
                self._maker.writer,
                self._maker.commits[latents.name],
                self._maker.commits["pixels"],
                model,
            )
            return 0.0
        chosen = list(rows[:_COMPARED_ROWS])
        first = self._maker.writer.state.rows_of_shard(shard).start
        pixels = self._maker.pixels_of(shard).pixels[[row - first for row in chosen]]
        again = compute_latents(model, pixels, np.array(chosen), len(chosen))
        arrays = {layer.name: _array(layer, [proven[layer.name][row] for row in chosen]) for layer in layers}
        scales = next((arrays[layer.name] for layer in layers if layer.kind == "scales"), None)
        error = relative_error(again, as_float(latents, arrays[latents.name], scales))
        if error > tolerance_of(model, latents):
            raise DamageError(
                f"rows that survived, asked again, differ by {error:.2g} (tolerance {tolerance_of(model, latents):g}): "
                "libraries or device changed the teacher's numbers. Use those that `status` shows."
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
