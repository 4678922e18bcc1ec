"""Compute a sample of a sealed store again with its teacher, and compare.

Checksums prove that the bytes are those that were written; the audit proves that they are what the teacher
computes. The sample is stratified over dataset, shard and view. Fresh latents go through the store's own precision
first, so that rounding makes no difference; a compiled teacher's are compared with the eager model's, too. Raw cosines
mean little, since a few channels dominate ViT latents: latents are standardised per channel over the sample, with the
same figure for shuffled rows as a control.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.building.recheck import as_float, tolerance_of
from usjepa.cache.errors import UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.store.descriptions import commit_of
from usjepa.cache.store.precision import quantise
from usjepa.cache.store.state import read_state
from usjepa.cache.store.writer import StoreWriter, check_same_layer
from usjepa.cache.teacher.batch_size import ON_CPU, kept_batch_size
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.teacher.layers import teacher_layers
from usjepa.cache.teacher.resolve import load_pass, resolve_teacher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_SAME_VERSIONS_SHARE = 0.2
"""Same versions and device: only the batch's composition may change last bits, so the tolerance is a fifth."""
_MIN_ROWS = 4


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    layer: str
    rows: int
    strata: int
    """Different (dataset, shard, view) among the rows."""
    relative_error: float
    """Of the worst row: Frobenius norm of the difference over that of its centred latents."""
    worst_row: int
    cosine: float
    """Mean over tokens of the cosine between standardised fresh and stored latents."""
    control: float
    """The same with stored rows shuffled: what unrelated frames give."""
    tolerance: float
    passed: bool
    worst_source: str = ""
    eager: float | None = None
    """Of a compiled teacher: the worst row's relative error to what the model gives that is not compiled, for which
    `eager_tolerance` holds; it counts towards `passed`."""
    eager_tolerance: float = 0.0

    def record(self) -> dict[str, Json]:
        """Return the manifest's entry: nothing in it depends on time or place."""
        kept = ("layer", "rows", "strata", "relative_error", "worst_row", "cosine", "control", "tolerance", "passed")
        record: dict[str, Json] = {name: getattr(self, name) for name in kept}
        eager: dict[str, Json] = {"eager": self.eager, "eager_tolerance": self.eager_tolerance}
        return record if self.eager is None else record | eager

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "DIFFERS from what the teacher computes"
        return (
            f"{self.layer}: {verdict}. {self.rows:,} rows of {self.strata:,} (dataset, shard, view) computed again: "
            f"worst relative error {self.relative_error:.2g} (tolerance {self.tolerance:g}) at row {self.worst_row}"
            f"{f', {self.worst_source}' if self.worst_source else ''}; standardised cosine {self.cosine:.4f}, "
            f"shuffled rows {self.control:.4f}{self._told_of_eager()}"
        )

    def _told_of_eager(self) -> str:
        if self.eager is None:
            return ""
        return f"; not compiled, the model differs by {self.eager:.2g} (tolerance {self.eager_tolerance:g})"


def audit(
    store: str,
    recipe: Recipe,
    teacher: str,
    rows: int = 64,
    device: str | None = None,
    record: bool = True,
) -> list[Audit]:
    """Compute a sample of rows again with the teacher, and compare with the stored latents.

    One audit for each layer that the teacher has: one, or one for each of `cache.teacher.blocks`.

    Args:
        store: folder or URL of a sealed store.
        recipe: the one it was built with.
        teacher: as for `build`.
        rows: how many rows to compute, at least 4.
        device: torch device.
        record: write the results into the manifest, as a new generation, unless it holds the same already.

    Raises:
        IdentityError: this is not the teacher that the store names.
        DamageError: stored rows are damaged.
        UsageError: the store holds no latents of this teacher.
    """
    opened = open_store(store)
    settings = resolve_teacher(teacher, recipe.cache.teacher)
    run = load_pass(settings, opened.size, device)
    layers = [_layer_of(opened, model, recipe) for model in run.teachers]
    chosen = _stratified_rows(opened, max(_MIN_ROWS, rows))
    found = [
        compare(opened, model, layer, chosen, settings.batch_size or _batch_size_of(opened, layer))
        for model, layer in zip(run.teachers, layers, strict=True)
    ]
    if settings.compile:
        eager = load_pass(settings.model_copy(update={"compile": False}), opened.size, device)
        found = [_beside_eager(opened, *each, chosen) for each in zip(found, eager.teachers, layers, strict=True)]
    if record:
        _record(opened, found)
    return found


def _beside_eager(store: Store, found: Audit, eager: Teacher, layer: Layer, rows: NDArray[np.int64]) -> Audit:
    """Return an audit with the stored latents' distance from what the model gives that is not compiled."""
    other, limit = compare(store, eager, layer, rows, _batch_size_of(store, layer)), tolerance_of(eager, layer)
    passed = found.passed and other.relative_error <= limit
    return replace(found, passed=passed, eager=other.relative_error, eager_tolerance=limit)


def _layer_of(store: Store, model: Teacher, recipe: Recipe) -> Layer:
    """Return the layer of a teacher, after making sure that it is the one that the store names."""
    if model.name not in store.latents:
        raise UsageError(
            f"{store.location}: no latents of {model.name!r}; it holds {', '.join(store.latents) or 'none'}."
        )
    for wanted in teacher_layers(model, recipe.cache.form, read_state(store.storage)):
        check_same_layer(store.layers[wanted.name], wanted, store.location)
    return store.layers[f"latents/{model.name}"]


def _batch_size_of(store: Store, layer: Layer) -> int:
    return kept_batch_size(soft for _, soft in store.manifest.soft.get(layer.name, ())) or ON_CPU


def _stratified_rows(store: Store, count: int) -> NDArray[np.int64]:
    """Return up to `count` row numbers, ascending, dealt evenly over (dataset, shard, view); the same each time."""
    names, dataset = np.unique(store.table.dataset.astype(str), return_inverse=True)
    shard = store.rows // store.manifest.rows_per_shard
    keys = (shard * len(names) + dataset) * (int(store.table.view.max(initial=0)) + 1) + store.table.view
    # A row's turn within its stratum, spread over the stratum by a fixed shuffle; all first turns come first.
    order = np.random.default_rng(0).permutation(len(keys))
    order = order[np.argsort(keys[order], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    dealt = order[np.lexsort((np.random.default_rng(1).permutation(len(order)), turn))]
    return np.sort(store.rows[dealt[:count]])


def compare(store: Store, model: Teacher, layer: Layer, rows: NDArray[np.int64], batch_size: int) -> Audit:
    """Compare fresh latents with stored ones; rows: [n] row numbers."""
    batch = store.read(rows, teacher=layer.teacher)
    fresh = compute_latents(model, batch.pixels, rows, batch_size)
    stored = as_float(layer, batch.latents, batch.scales)
    again = as_float(layer, *quantise(fresh, layer, 0))
    errors = _row_errors(again, stored)
    tolerance = tolerance_of(model, layer) * (_SAME_VERSIONS_SHARE if _same_versions(store, model, layer, rows) else 1)
    worst = int(errors.argmax())
    cosine, control = _standardised_cosines(again, stored)
    origins = [store.origin_of(int(row)) for row in rows]
    shards = (rows // store.manifest.rows_per_shard).tolist()
    strata = {(one.source.dataset, shard, one.view) for one, shard in zip(origins, shards, strict=True)}
    passed = bool(errors[worst] <= tolerance)
    return Audit(
        layer.name, len(rows), len(strata), float(errors[worst]), int(rows[worst]), cosine, control, tolerance, passed,
        str(origins[worst]),
    )  # fmt: skip


def _row_errors(again_RTD: NDArray[np.float32], stored_RTD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return [R] relative errors; centred per channel over the sample, so that constant channels hide nothing."""
    centred = again_RTD - again_RTD.mean(axis=(0, 1))
    size = np.linalg.norm(centred.reshape(len(centred), -1), axis=1)
    difference = np.linalg.norm((again_RTD - stored_RTD).reshape(len(centred), -1), axis=1)
    errors: NDArray[np.float64] = np.asarray(difference / np.maximum(size, 1e-12), np.float64)
    return errors


def _standardised_cosines(again_RTD: NDArray[np.float32], stored_RTD: NDArray[np.float32]) -> tuple[float, float]:
    """Return the mean token cosine of standardised latents, and that of rows against other rows."""
    mean, spread = again_RTD.mean(axis=(0, 1)), again_RTD.std(axis=(0, 1)) + 1e-12
    a, b = (again_RTD - mean) / spread, (stored_RTD - mean) / spread
    a /= np.linalg.norm(a, axis=2, keepdims=True) + 1e-12
    b /= np.linalg.norm(b, axis=2, keepdims=True) + 1e-12
    shuffled = np.roll(b, len(b) // 2, axis=0)
    return float((a * b).sum(axis=2).mean()), float((a * shuffled).sum(axis=2).mean())


def _same_versions(store: Store, model: Teacher, layer: Layer, rows: NDArray[np.int64]) -> bool:
    now = model.soft
    shards = sorted({int(row) // store.manifest.rows_per_shard for row in rows})
    return all(commit_of(store.manifest, layer, shard, 0).soft == now for shard in shards)


def _record(store: Store, found: list[Audit]) -> None:
    with hold_claim(store.storage, WHOLE, False) as claim:
        refuse_rivals(store.storage, WHOLE, False)
        writer = StoreWriter(store.storage, claim.check)
        writer.attach()
        newest = writer.state.newest
        if newest is None or newest.digest != store.manifest.digest:
            raise UsageError(f"{store.location}: a newer generation was sealed meanwhile: run the audit again.")
        new = [record for record in (one.record() for one in found) if record not in newest.audits]
        if not new:
            return
        audits = (*newest.audits, *new)
        sealed = writer.publish_generation(replace(newest, generation=newest.generation + 1, audits=audits))
        logger.info(f"recorded in generation {sealed.generation}")
