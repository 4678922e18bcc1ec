"""Keep arrays that are dear to compute: resumable, checked, found by identity.

It is a store of our own format with one layer, one token per row. Its folder is named by the hash of the identity, so
that a finished one is known to fit. It is written shard by shard by the writer of stage one: what was computed before a
kill is kept, and every row is checked against its place when it is read. A damaged one is computed anew, and logged.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import DamageError, FormatError, HoleError, StoreError
from usjepa.cache.identity import Json, digest_of
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.commits import committed
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

LAYER = "latents/features"
"""The one layer: float32 [rows, 1, width]."""
_CLAIM = "build"
_MOST_ROWS_PER_SHARD = 65536


@dataclass(frozen=True)
class KeptArray:
    """A float32 array [rows, width] that is kept under a folder."""

    folder: Path
    """Where such arrays are kept, a folder each."""
    identity: dict[str, Json]
    """Everything that may change the numbers."""
    rows: int
    rows_per_shard: int
    """A kill costs at most so many rows."""

    @cached_property
    def place(self) -> Path:
        """Its own folder."""
        return self.folder / f"{digest_of(self.identity)}.zarr"

    def get(self, compute: Callable[[range], Floats], label: str) -> Floats:
        """Return the array: from an earlier call's store, or computed and kept for the next.

        Args:
            compute: returns some consecutive rows, float32 [n, width]; may raise to stop, and the same call goes on
                from there later.
            label: names the work on the progress bar.

        Raises:
            ClaimedError: another process is computing this very array.
        """
        found = self._found()
        if found is not None:
            return found
        try:
            return self._computed(compute, label)
        except _DamagedError as error:
            self._discard(error)
            return self._computed(compute, label)

    def _found(self) -> Floats | None:
        """Return an earlier call's array; None where it is not there, not finished, or damaged: then removed."""
        if not self.place.exists():
            return None
        try:
            return self._read()
        except (DamageError, FormatError, HoleError) as error:  # not what the system refuses: that may pass
            self._discard(error)
            return None

    def _read(self) -> Floats | None:
        """Return the array, every row checked; None where some rows are not computed yet."""
        # Such a store is never sealed, as it has no pixels: its commit records say what is whole.
        store = open_store(str(self.place), allow_partial=True)
        if LAYER not in store.layers or len(store) < self.rows:
            return None
        if len(store) != self.rows or store.identity[LAYER] != self.identity:
            raise DamageError("they are of another identity")
        array: Floats = store.read(store.rows, layers=(LAYER,)).arrays[LAYER][:, 0]
        return array

    def _discard(self, error: Exception) -> None:
        logger.info(f"{self.place}: numbers kept by an earlier call can't be used ({error}): computing them again.")
        shutil.rmtree(self.place)

    def _computed(self, compute: Callable[[range], Floats], label: str) -> Floats:
        """Compute what is not kept yet, and return the whole array."""
        storage = LocalStorage(self.place)
        with hold_claim(storage, _CLAIM, False, patient=True) as claim:
            storage.sweep()
            writer = StoreWriter(storage, claim.check)
            try:
                self._prepare(writer)
                layer = writer.state.layers.get(LAYER)
                done = committed(storage, layer) if layer is not None else {}
            except (DamageError, FormatError) as error:
                raise _DamagedError(str(error)) from error
            with ProgressBar(self.rows, label, unit="frames") as progress:
                for shard in range(writer.state.shard_count):
                    numbers = writer.state.rows_of_shard(shard)
                    if shard not in done:
                        made = compute(numbers)
                        layer = layer or writer.add_layer(self._layer(made.shape[1], writer.state.rows_per_shard))
                        writer.write_shard(layer, shard, made[:, None], [], {})
                    progress.update(len(numbers))
        array = self._read()
        if array is None:
            raise StoreError(f"{self.place}: it was removed while it was computed. Run the command again.")
        return array

    def _layer(self, width: int, rows_per_shard: int) -> Layer:
        return Layer(LAYER, "float32", (1, width), rows_per_shard, self.identity)

    def _prepare(self, writer: StoreWriter) -> None:
        """Make sure the store has its one segment: one source of as many frames as there are rows."""
        writer.create_or_open(min(_MOST_ROWS_PER_SHARD, self.rows_per_shard))
        if not writer.state.segments:
            writer.add_segment(*_tables(self.rows, digest_of(self.identity)), self.rows)


class _DamagedError(Exception):
    """What an earlier call left unfinished can't be gone on with."""


def _tables(count: int, content: str) -> tuple[bytes, bytes]:
    """Return the tables of a segment whose rows are the frames of one source."""
    texts = {"path": "array", "reader": "kept", "content_hash": content}
    texts |= dict.fromkeys(("dataset", "group", "label", "split", "error"), "")
    one = np.ones(1, np.int32)
    sources = SourceTable(
        **{name: np.array([value], dtype=object) for name, value in texts.items()},
        frames=one * count,
        height=one,
        width=one,
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
    return sources.to_parquet(), rows.to_parquet()
