"""Features, computed once per (encoder, task) into a store of our own format, resumed after a kill, and used again.

A store's name is the hash of the encoder's identity, the task store's content and the rows: a finished one never needs
asking whether it still fits. It is written shard by shard by the writer of stage one, so that what was computed before
a kill is kept, and every row is checked against its place when it is read. A copy that was damaged is computed anew,
and said so. The features are its layer `latents/features`: one token a frame.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError, FormatError, StoreError, UsjepaError
from usjepa.cache.identity import Json, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.writer import StoreWriter
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.tasks.task import Task

logger = logging.getLogger(__name__)

FEATURES_VERSION = 2
"""Raised when the same encoder and frames would give other numbers, or be kept in another way."""

LAYER = "latents/features"
_BATCHES_PER_SHARD = 4
"""A kill costs at most the shard in hand."""


def features_of(
    encoder: Encoder,
    task: Task,
    folder: Path,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return float32 [n, F] for a task's frames: from an earlier call's store, or computed and kept for the next.

    Args:
        encoder: what is asked.
        task: whose frames.
        folder: where features are kept.
        batch_size: frames at once.
        check: called before every batch; may raise to stop, and the same call later goes on from there.

    Raises:
        UsjepaError: the encoder gave a number that is not finite; the row is named.
        ClaimedError: another process is computing these very features.
    """
    identity = feature_identity(encoder, task)
    place = folder / f"{digest_of(identity)}.zarr"
    found = _kept(place, identity, len(task.rows))
    if found is not None:
        return found
    try:
        return _computed(encoder, task, place, identity, batch_size, check)
    except _DamagedError as error:
        _discard(place, error)
        return _computed(encoder, task, place, identity, batch_size, check)


def feature_identity(encoder: Encoder, task: Task) -> dict[str, Json]:
    """Return everything that may change the features of a task."""
    rows = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(task.rows, dtype="<i8").tobytes())
    content = task.store.content_digest(encoder.layers)
    return {"version": FEATURES_VERSION, "encoder": encoder.identity, "store": content, "rows": rows}


def _kept(place: Path, identity: dict[str, Json], count: int) -> NDArray[np.float32] | None:
    """Return the features of an earlier call; None where they are not there, not finished, or damaged: then removed."""
    if not place.exists():
        return None
    try:
        return _read(place, identity, count)
    except StoreError as error:
        _discard(place, error)
        return None


def _read(place: Path, identity: dict[str, Json], count: int) -> NDArray[np.float32] | None:
    """Return a store's features, every row checked; None where some are not computed yet."""
    from usjepa.cache.reading.store import open_store

    # Such a store is never sealed, as it has no pixels: its commit records say what is whole.
    store = open_store(str(place), allow_partial=True)
    if LAYER not in store.layers or len(store) < count:
        return None
    if len(store) != count or store.identity[LAYER] != identity:
        raise DamageError("they are of another encoder or task")
    features: NDArray[np.float32] = store.read(store.rows, layers=(LAYER,)).arrays[LAYER][:, 0]
    return features


class _DamagedError(Exception):
    """What an earlier call left unfinished can't be gone on with."""


def _discard(place: Path, error: Exception) -> None:
    logger.info(f"{place}: features of an earlier call can't be used ({error}): computing them again.")
    shutil.rmtree(place)


def _computed(
    encoder: Encoder,
    task: Task,
    place: Path,
    identity: dict[str, Json],
    batch_size: int,
    check: Callable[[], None],
) -> NDArray[np.float32]:
    """Compute what is not there yet of a store of features, and return them all."""
    from usjepa.cache.building.parts import WHOLE
    from usjepa.cache.progress import Progress
    from usjepa.cache.storage.claims import hold_claim
    from usjepa.cache.storage.local import LocalStorage
    from usjepa.cache.store.commits import committed
    from usjepa.cache.store.writer import StoreWriter

    storage = LocalStorage(place)
    with hold_claim(storage, WHOLE, False, patient=True) as claim:
        storage.sweep()
        writer = StoreWriter(storage, claim.check)
        try:
            _prepare(writer, task, batch_size)
            layer = writer.state.layers.get(LAYER)
            done = committed(storage, layer) if layer is not None else {}
        except (DamageError, FormatError) as error:
            raise _DamagedError(str(error)) from error
        with Progress(len(task.rows), f"{task.name}: {encoder.name}", unit="frames") as progress:
            for shard in range(writer.state.shard_count):
                numbers = writer.state.rows_of_shard(shard)
                if shard not in done:
                    made = _asked(encoder, task, task.rows[numbers.start : numbers.stop], batch_size, check)
                    layer = layer or writer.add_layer(_layer(made.shape[1], writer.state.rows_per_shard, identity))
                    writer.write_shard(layer, shard, made[:, None], [], {})
                progress.update(len(numbers))
    features = _read(place, identity, len(task.rows))
    if features is None:
        raise StoreError(f"{place}: its features were removed while they were computed. Run the command again.")
    return features


def _prepare(writer: StoreWriter, task: Task, batch_size: int) -> None:
    """Make sure the store has its one segment: a row a frame, in the task's order."""
    from usjepa.cache.store.tables import RowTable, SourceTable

    writer.open(min(65536, batch_size * _BATCHES_PER_SHARD))
    if writer.state.segments:
        return
    count = len(task.rows)

    def text(value: str) -> NDArray[np.object_]:
        return np.array([value], dtype=object)

    one = np.ones(1, np.int32)
    sources = SourceTable(
        path=text("task"),
        dataset=text(""),
        group=text(""),
        label=text(""),
        split=text(""),
        reader=text("features"),
        content_hash=text(task.store.content_digest()),
        frames=one * count,
        height=one,
        width=one,
        error=text(""),
    )
    zeros, ones = np.zeros(count, np.int32), np.ones(count, np.int32)
    rows = RowTable(
        source=zeros,
        frame=np.arange(count, dtype=np.int32),
        view=zeros,
        top=zeros,
        left=zeros,
        height=ones,
        width=ones,
        flip_horizontal=zeros.astype(bool),
        flip_vertical=zeros.astype(bool),
    )
    writer.add_segment(sources.to_parquet(), rows.to_parquet(), count)


def _layer(length: int, rows_per_shard: int, identity: dict[str, Json]) -> Layer:
    from usjepa.cache.store.layers import Layer

    return Layer(LAYER, "float32", (1, length), rows_per_shard, identity)


def _asked(
    encoder: Encoder, task: Task, rows: NDArray[np.int64], batch_size: int, check: Callable[[], None]
) -> NDArray[np.float32]:
    """Return an encoder's features of rows of the task's store, float32 [n, F], all finite."""
    parts = []
    for start in range(0, len(rows), batch_size):
        check()
        some = rows[start : start + batch_size]
        features = encoder.features(task.store.read(some, layers=encoder.layers))
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise UsjepaError(
                f"{task.store.location}: row {int(some[~finite][0])}: {encoder.name} gave a feature that is not "
                "finite. Check the encoder's weights; a run whose loss diverged must be trained again."
            )
        parts.append(np.asarray(features, dtype=np.float32))
    return np.concatenate(parts)
