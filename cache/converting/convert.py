"""Make a layer of another precision from stored latents, without the teacher.

The layer is named after both (`latents/urfm-int8`), its identity says from which layer it was made, and its shards are
made and committed like those of a build: a call that was interrupted, or that comes after the store has grown, makes
what is missing. Before it is sealed, every row is read back and compared with the original.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.building.committed_rows import CommittedRows, read_committed
from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.converting.agreement import Agreement, measure
from usjepa.cache.errors import NotSealedError, StoreError, UsageError
from usjepa.cache.identity import soft_versions
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.lazy import lazy
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.precision import QUANTISER_VERSION, STORED_DTYPE, quantise
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.layers import calibration_rows, with_calibration
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import LatentPrecision
    from usjepa.cache.store.commits import Commit, Commits

logger = logging.getLogger(__name__)

_GO_ON = "Every finished shard is kept: run the same command again to go on."
_THREADS = 2
"""Shards in hand at once."""
_SMALLER: dict[str, tuple[LatentPrecision, ...]] = {"float32": ("fp16", "int8"), "float16": ("int8",), "int8": ()}
"""Stored type -> what it can be converted to: the other way bytes are added and nothing else."""


def convert(
    store: str, precision: LatentPrecision, teacher: str | None = None, name: str | None = None, steal: bool = False
) -> Agreement:
    """Make a layer of another precision from a stored one, and seal it.

    Args:
        store: folder or URL.
        precision: of the new layer.
        teacher: whose latents; none: the store's only ones.
        name: of the new layer; none: the teacher's and the precision.
        steal: take over the claim of a builder known to be dead.

    Returns:
        How near the new layer comes to the original.

    Raises:
        UsageError: there are no such latents, or they can't be converted so.
        IdentityError: another layer has that name.
        StoreError: the new layer is further from the original than its precision explains.
    """
    storage = open_storage(store)
    with graceful_interrupts(_GO_ON), hold_claim(storage, WHOLE, steal, doing="converted") as claim:
        refuse_rivals(storage, WHOLE, steal)
        storage.sweep()
        writer = StoreWriter(storage, claim.check)
        writer.attach()
        if not writer.state.segments:
            raise NotSealedError(f"{storage.url}: nothing is built yet. Build it first.")
        job = _job(writer, precision, teacher, name)
        job.run()
        found = measure(writer, job.source, job.layers, job.commits)
        logger.info(str(found))
        if not found.passed:
            raise StoreError(f"{found} Nothing is sealed; usjepa-cache gc {store} --unfinished deletes the layer.")
        _seal(writer, found)
        return found


def _seal(writer: StoreWriter, found: Agreement) -> None:
    """Seal the layer, and keep in the manifest how near it is to the original."""
    sealed = writer.seal()
    kept = [entry for entry in sealed.audits if (entry["layer"], "against" in entry) != (found.layer, True)]
    audits = (*kept, found.record())
    if audits != sealed.audits:
        sealed = writer.publish_generation(replace(sealed, generation=sealed.generation + 1, audits=audits))
    logger.info(f"sealed: generation {sealed.generation}, {', '.join(sealed.layers)}")


@dataclass(frozen=True)
class _Job:
    """A layer that is made from another."""

    writer: StoreWriter
    source: Layer
    layers: tuple[Layer, ...]
    """Scales, for int8, before latents."""
    commits: Commits
    soft: dict[str, Json]

    def run(self) -> None:
        """Make every shard that is missing.

        Raises:
            NotSealedError: the original itself lacks shards.
        """
        shards = range(self.writer.state.shard_count)
        originals = self.commits[self.source.name]
        lacking = [shard for shard in shards if shard not in originals]
        if lacking:
            raise NotSealedError(
                f"{self.writer.storage.url}: {self.source.name} has {len(originals)} of {len(shards)} shards. Finish "
                "its build first."
            )
        todo = [shard for shard in shards if any(shard not in self.commits[layer.name] for layer in self.layers)]
        _in_threads([partial(self._make, shard) for shard in todo])

    @lazy
    def _originals(self) -> CommittedRows:
        return CommittedRows(self.writer.storage, [(self.source, self.commits[self.source.name])])

    def _make(self, shard: int) -> None:
        numbers = self.writer.state.rows_of_shard(shard)
        original = self.commits[self.source.name][shard]
        holes = [(row, why) for row, why in original.holes if row in numbers]
        missing = {row for row, _ in holes}
        rows = [row for row in numbers if row not in missing]
        latents: NDArray[np.float32] = np.zeros((len(numbers), *self.source.shape), np.float32)
        (latents[[row - numbers.start for row in rows]],) = self._originals.read(rows)
        values, scales = quantise(latents, self.layers[-1], numbers.start)
        made: Mapping[str, NDArray[Any]] = {"latents": values} | ({} if scales is None else {"scales": scales})
        for layer in self.layers:
            commit = self.writer.write_shard(layer, shard, made[layer.kind], holes, self.soft)
            self.commits[layer.name][shard] = commit


def _job(writer: StoreWriter, precision: LatentPrecision, teacher: str | None, name: str | None) -> _Job:
    source = _source(writer, teacher)
    if precision not in _SMALLER[source.dtype]:
        possible = ", ".join(_SMALLER[source.dtype]) or "nothing smaller"
        raise UsageError(f"{source.name} is stored as {source.dtype}: it can be converted to {possible}.")
    name = name or f"{source.teacher}-{precision}"
    identity: dict[str, Json] = {
        **source.identity,
        "precision": precision,
        "quantiser": QUANTISER_VERSION[precision],
        "converted": source.digest,
    }
    commits = writer.committed([source])
    layers = _layers(writer, source, name, precision, identity, commits[source.name])
    commits |= writer.committed(layers)
    soft: dict[str, Json] = {**soft_versions(["numpy", "usjepa"]), "converted": source.name}
    return _Job(writer, source, layers, commits, soft)


def _source(writer: StoreWriter, teacher: str | None) -> Layer:
    """Return the layer that is converted; of several, those that were computed come before those that were made so."""
    found = {str(layer.teacher): layer for layer in writer.state.layers.values() if layer.kind == "latents"}
    computed = [name for name, layer in found.items() if "converted" not in layer.identity]
    if teacher is None and len(computed) == 1:
        return found[computed[0]]
    if teacher not in found:
        what = (
            "no latents"
            if teacher is None and not found
            else f"which latents? --teacher one of {', '.join(sorted(found))}"
        )
        raise UsageError(f"{writer.storage.url}: {what}{'' if teacher is None else f', not {teacher!r}'}.")
    return found[teacher]


def _layers(
    writer: StoreWriter,
    source: Layer,
    name: str,
    precision: LatentPrecision,
    identity: dict[str, Json],
    commits: Mapping[int, Commit],
) -> tuple[Layer, ...]:
    """Return the layers that are filled, made in the store where they are missing; int8 is calibrated once."""
    tokens, rows_per_shard = source.shape[0], source.rows_per_shard
    layers = [Layer(f"latents/{name}", STORED_DTYPE[precision], source.shape, rows_per_shard, identity)]
    if precision == "int8":
        layers.insert(0, Layer(f"scales/{name}", "float32", (tokens,), rows_per_shard, identity))
        stored = writer.state.layers.get(f"latents/{name}")
        if stored is not None:
            layers[-1] = replace(layers[-1], channel_scale=stored.channel_scale)
        else:
            holes = {row for commit in commits.values() for row, _ in commit.holes}
            shards = sorted(commits)
            rows = np.array([r for s in shards for r in writer.state.rows_of_shard(s) if r not in holes], np.int64)
            sample = read_committed(writer.storage, source, commits, calibration_rows(rows).tolist())
            layers = with_calibration(layers, sample.astype(np.float32))
    return tuple(writer.add_layer(layer) for layer in layers)


def _in_threads(tasks: list[Callable[[], None]]) -> None:
    def run(task: Callable[[], None]) -> None:
        safe_point()
        task()

    pool = ThreadPoolExecutor(_THREADS, "usjepa-convert")
    try:
        with ProgressBar(len(tasks), "convert", unit="shards") as progress:
            for _ in pool.map(run, tasks):
                progress.update(1)
    finally:
        pool.shutdown(cancel_futures=True)
