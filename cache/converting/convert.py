"""Make a layer of another precision or on axes from stored latents.

The layer is named after both (`latents/urfm-int8`, `latents/urfm-int4-axes600`), its identity says from which layer it
was made, and its shards are made and committed like those of a build: a call that was interrupted, or that comes after
the store has grown, makes what is missing. Before it is sealed, every row is read back and compared with the original.
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
from usjepa.cache.coding.form import Form
from usjepa.cache.converting.agreement import Agreement, measure
from usjepa.cache.errors import NotSealedError, StoreError, UsageError
from usjepa.cache.identity import soft_versions
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.lazy import lazy
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.calibration import (
    calibration_rows,
    is_calibrated,
    sample_size,
    with_calibration,
    with_stored_calibration,
)
from usjepa.cache.store.precision import quantise
from usjepa.cache.store.state import root_settings
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.layers import layers_of
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from usjepa.cache.coding.form import LatentPrecision
    from usjepa.cache.identity import Json
    from usjepa.cache.store.commits import Commit, Commits
    from usjepa.cache.store.layers import Layer

logger = logging.getLogger(__name__)

_GO_ON = "Every finished shard is kept: run the same command again to go on."
_THREADS = 2
"""Shards in hand at once."""
_STORED: dict[str, LatentPrecision] = {"float32": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int4"}
_BITS: dict[LatentPrecision, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}


def convert(
    store: str,
    precision: LatentPrecision,
    teacher: str | None = None,
    name: str | None = None,
    steal: bool = False,
    axes: int | None = None,
) -> Agreement:
    """Make a layer of another precision, or on fewer axes, from a stored one, and seal it.

    Args:
        store: folder or URL.
        precision: of the new layer.
        teacher: whose latents; none: the store's only ones.
        name: of the new layer; none: the teacher's and the precision, with axes their number too.
        steal: take over the claim of a builder known to be dead.
        axes: how many principal axes of a sample the new layer is on; none: all channels.

    Returns:
        How near the new layer comes to the original.

    Raises:
        UsageError: there are no such latents, or they can't be converted so.
        IdentityError: another layer has that name.
        StoreError: the new layer is further from the original than its precision explains.
    """
    storage = open_storage(store)
    root_settings(storage)  # a folder of other things is left as it is
    with graceful_interrupts(_GO_ON), hold_claim(storage, WHOLE, steal, doing="converted") as claim:
        refuse_rivals(storage, WHOLE, steal)
        storage.sweep()
        writer = StoreWriter(storage, claim.check)
        writer.attach()
        if not writer.state.segments:
            raise NotSealedError(f"{storage.url}: nothing is built yet. Build it first.")
        job = _job(writer, Form(precision, axes), teacher, name)
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
    """Scales, if any, before latents."""
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


def _job(writer: StoreWriter, form: Form, teacher: str | None, name: str | None) -> _Job:
    source = _source(writer, teacher)
    _refuse_larger(source, form)
    identity: dict[str, Json] = {**source.identity, **form.identity(), "converted": source.digest}
    commits = writer.committed([source])
    layers = _layers(writer, source, name or _name_of(source, form), form, identity, commits[source.name])
    commits |= writer.committed(layers)
    soft: dict[str, Json] = {**soft_versions(["numpy", "usjepa"]), "converted": source.name}
    return _Job(writer, source, layers, commits, soft)


def _refuse_larger(source: Layer, form: Form) -> None:
    """Raise UsageError where bytes would be added and nothing else, or what was rounded once would be once more."""
    if source.coding is not None or source.dtype == "int8":
        raise UsageError(
            f"{source.name} is stored as {_form_text(source)}: it can be converted to nothing smaller. Convert the "
            "layer that it was made from, or have the teacher asked again (usjepa-cache build --teacher)."
        )
    mine = _BITS[_STORED[source.dtype]]
    possible = [name for name, bits in _BITS.items() if bits < mine]
    if form.axes is None and form.precision not in possible:
        raise UsageError(f"{source.name} is stored as {source.dtype}: it can be converted to {', '.join(possible)}.")
    if _BITS[form.precision] > mine:
        raise UsageError(
            f"{source.name} is stored as {source.dtype}: on axes it can be converted to "
            f"{', '.join([_STORED[source.dtype], *possible])}."
        )


def _form_text(layer: Layer) -> str:
    """Return how a layer's rows are stored, for messages."""
    axes = 0 if layer.coding is None else layer.coding.count
    return f"{layer.dtype if layer.dtype != 'uint8' else 'int4'}{f' on {axes} axes' if axes else ''}"


def _name_of(source: Layer, form: Form) -> str:
    """Return the teacher's name and the form; a block stays at the end, as layers of several blocks have it."""
    name, dot, block = str(source.teacher).partition(".")
    return f"{name}-{form.suffix}{dot}{block}"


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
    form: Form,
    identity: dict[str, Json],
    commits: Mapping[int, Commit],
) -> tuple[Layer, ...]:
    """Return the layers that are filled, made in the store where they are missing; they are calibrated once."""
    layers = layers_of(name, source.latent_shape, form, source.rows_per_shard, identity)
    layers = [with_stored_calibration(layer, writer.state.layers.get(layer.name)) for layer in layers]
    for layer in layers:
        if layer.name in writer.state.layers:
            writer.add_layer(layer)  # another form is refused before any sample
    if not all(is_calibrated(layer) for layer in layers):
        holes = {row for commit in commits.values() for row, _ in commit.holes}
        shards = sorted(commits)
        every = np.array([r for s in shards for r in writer.state.rows_of_shard(s) if r not in holes], np.int64)
        rows = calibration_rows(every, sample_size(form.axes is not None))
        sample = read_committed(writer.storage, source, commits, rows.tolist())
        layers = with_calibration(layers, sample.astype(np.float32), rows)
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
