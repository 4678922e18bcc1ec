"""Pretend devices and decoders in this process, and note what its pipeline does; a worker of Dask preloads it.

`USJEPA_PRETENDED` is JSON: `rate` and `decoder_rate` in rows a second, shapes of `pixels` and `regions`, and the file
that `notes` go to.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from usjepa.cache.building import pipeline
from usjepa.cache.decoding import child, cutters
from usjepa.cache.decoding.lifeline import Child
from usjepa.cache.teacher import computing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

TOLD: dict[str, Any] = json.loads(os.environ["USJEPA_PRETENDED"])
LAUNCH_S = 0.003
"""What asking a GPU for a ViT's forward pass takes: some hundred kernels at 5 to 10 us each."""


class Batch(computing._Batch):
    """Takes its time one after the other, and keeps the interpreter busy for as long as launching kernels does."""

    free_at: ClassVar[dict[int, float]] = {}
    """When each device has computed all that it was asked for."""
    seen: ClassVar[set[int]] = set()
    """Addresses of memory that holds numbers, not what was there before."""

    def __init__(self, run: object, wanted: object, pixels: np.ndarray, *_: object) -> None:
        until = time.perf_counter() + LAUNCH_S
        while time.perf_counter() < until:
            pass
        free_at = max(self.free_at.get(id(run), 0.0), time.perf_counter())
        self.done_at = self.free_at[id(run)] = free_at + len(pixels) / TOLD["rate"]

    def copy_to(self, arrays: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> None:
        for into in (array for pair in arrays for array in pair if array is not None):
            if into.ctypes.data not in self.seen:
                self.seen.add(into.ctypes.data)
                into.fill(0)

    def receive(self) -> None:
        time.sleep(max(0.0, self.done_at - time.perf_counter()))


class Noted(pipeline.Pipeline):
    """Notes when it was made, when the last shard so far was committed, and how many rows that is."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.start, self.rows, self.lock = time.time(), 0, threading.Lock()

    def _make(self, *given: Any) -> int:
        rows = super()._make(*given)
        with self.lock:
            self.rows += rows
            Path(TOLD["notes"]).write_text(json.dumps([self.rows, time.time() - self.start]))
        return rows


vars(computing)["_Batch"] = Batch
vars(pipeline)["Pipeline"] = Noted
vars(child)["Child"] = lambda module: Child("benchmarks.cluster.decoder")
vars(cutters)["_SMALL_ROWS"] = 0
