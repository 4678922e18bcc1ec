"""Read batches from the store in a background thread while a step runs.

A batch depends on (seed, step, rows) alone, never on the thread's timing. Targets are the store's latents, or, with
`train.targets: online`, what the teacher computes from the very same pixels; nothing else differs.

Images whose region is too small for their masks are removed here, before the student sees them, and reported.

Shape suffixes: R rows of a request, B usable ones among them, C channels, S edge of stored pixels, T patches, D width.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.cells import patch_validity
from usjepa.cache.reading.batch_memory import Ring
from usjepa.train.data.fingerprint import fingerprint
from usjepa.train.data.read_ahead import read_ahead
from usjepa.train.masks.multiblock import Masks, sample_masks
from usjepa.train.masks.tensors import MaskTensors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.cache.several.face import Readable
    from usjepa.train.objective.targets import Targets

    Ints = NDArray[np.int64]

_AHEAD = 2
"""Fewest batches prepared while one is computed on."""


@dataclass(frozen=True)
class BatchRequest:
    """The rows of one batch."""

    step: int
    """Names the draw of its masks: the global step, or a constant for validation."""
    positions_R: Ints
    """int64 [R] positions in the store's table, before unusable images are removed."""


@dataclass(frozen=True)
class TrainBatch:
    """One batch on the device; B counts usable images only."""

    step: int
    rows_B: Ints
    """int64 [B] row numbers, on the host."""
    unusable_rows: Ints
    """int64, on the host: rows left out because their region is too small."""
    fingerprint: int
    """Of rows and masks, see `fingerprint.py`; parts of a batch add up to the whole's."""
    pixels_BCSS: torch.Tensor
    """uint8"""
    latents_BTD: torch.Tensor | None
    """float32, normalised for the loss; None until the online teacher has computed them."""
    masks: MaskTensors
    """Context and target masks of the B images."""

    def __len__(self) -> int:
        return len(self.rows_B)


class BatchMaker:
    """Makes batches of rows of a store."""

    def __init__(
        self,
        store: Readable,
        targets: Targets,
        settings: TrainSettings,
        device: torch.device,
        normalise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Check that the store has what the recipe trains with.

        Args:
            store: to read from.
            targets: read from it, or computed from its pixels.
            settings: the `train:` section; masks, seed and accumulation count here.
            device: of the batches.
            normalise: applied to the targets, float [B, T, D] to float32 [B, T, D]; None: as they are.

        Raises:
            UsageError: the store lacks a layer.
        """
        self._store, self._targets, self._settings = store, targets, settings
        self._device, self._normalise = device, normalise
        self._layers = self._layers_to_read()
        self._ahead = max(_AHEAD, settings.accumulate)
        # Copies run beside the computation only in a stream of their own.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Two: one for the background thread, one for a batch made meanwhile in the foreground (validation).
        self._ring = Ring(2, pinned=device.type == "cuda")

    def _layers_to_read(self) -> list[str]:
        wanted = ["pixels", *(["regions"] if self._settings.masks.regions else []), *self._targets.layers]
        missing = [name for name in wanted if name not in self._store.layers and not name.startswith("scales/")]
        if missing:
            raise UsageError(f"{self._store.location}: no layer {missing[0]}, which this recipe trains with.")
        return [name for name in wanted if name in self._store.layers]

    def stream(self, requests: Iterable[BatchRequest]) -> Generator[tuple[TrainBatch, float]]:
        """Yield the requested batches in order, each with the seconds waited for it; see `read_ahead`."""
        yield from read_ahead(requests, self._read, self._received, self._ahead)

    def make(self, request: BatchRequest) -> TrainBatch:
        """Return one batch, made in the calling thread."""
        return self._received(self._read(request))

    def _read(self, request: BatchRequest) -> TrainBatch:
        """Read, draw masks and send to the device, in the background thread.

        The batch owns its memory: the ring's memory, which rows are read into, is overwritten by the next batch.
        """
        rows_R = self._store.row_numbers(request.positions_R)
        described = {name: layer for name, layer in self._store.layers.items() if name in self._layers}
        with self._ring.lend() as memory:
            read = self._store.read(rows_R, layers=self._layers, out=memory.arrays(described, len(rows_R)))
            return self._assembled(request, rows_R, read)

    def _assembled(self, request: BatchRequest, rows_R: Ints, read: Batch) -> TrainBatch:
        masks = self._drawn(request.step, rows_R, read)
        kept = np.flatnonzero(masks.usable_B)
        masks = masks if len(kept) == len(rows_R) else masks.take(kept)
        copying = torch.cuda.stream(self._copies) if self._copies is not None else nullcontext()
        with copying:
            batch = TrainBatch(
                step=request.step,
                rows_B=rows_R[kept],
                unusable_rows=np.delete(rows_R, kept),
                fingerprint=fingerprint(rows_R[kept], masks),
                pixels_BCSS=self._owned(read.pixels if len(kept) == len(rows_R) else read.pixels[kept]),
                latents_BTD=self._stored_targets(read, kept),
                masks=MaskTensors.of(masks, self._sent),
            )
            if self._copies is not None:
                self._copies.synchronize()  # this thread waits, so that the computing one need not
        return batch

    def _drawn(self, step: int, rows_R: Ints, read: Batch) -> Masks:
        """Draw the masks of the rows."""
        grid, settings, validity_RT = self._targets.grid, self._settings, None
        if settings.masks.regions:
            validity_RT = patch_validity(read.regions, self._store.size, self._store.size // grid[0])
        return sample_masks(settings.seed, step, rows_R, grid, settings.masks, validity_RT)

    def _stored_targets(self, read: Batch, kept: Ints) -> torch.Tensor | None:
        """Return the latents of the kept images, float32 [B, T, D]; None with an online teacher."""
        if self._targets.online is not None:
            return None
        latents_RTD = self._targets.stored(read, str(self._device))
        if len(kept) == len(latents_RTD):
            return latents_RTD
        if self._copies is None:
            # In NumPy: a parallel loop of torch's in this thread would delay the computing one, see `to_targets`.
            return torch.from_numpy(latents_RTD.numpy()[kept])
        return latents_RTD[torch.from_numpy(kept).to(self._device)]

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._copies is None:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def _owned(self, array: NDArray[Any]) -> torch.Tensor:
        """Send an array that may lie in the ring's memory; without a device of its own, copy it."""
        return torch.from_numpy(array.copy()) if self._copies is None else self._sent(array)

    def _received(self, batch: TrainBatch) -> TrainBatch:
        """Add online targets and normalise, in the computing thread; on a GPU, tie the memory to its stream."""
        if self._copies is not None:
            for tensor in (batch.pixels_BCSS, batch.latents_BTD, *batch.masks.tensors()):
                if tensor is not None:
                    tensor.record_stream(torch.cuda.current_stream(self._device))
        grid, online = self._targets.grid, self._targets.online
        if not len(batch):
            return replace(batch, latents_BTD=torch.empty(0, grid[0] * grid[1], 0, device=self._device))
        latents_BTD = batch.latents_BTD if online is None else online(batch.pixels_BCSS)
        if self._normalise is not None and latents_BTD is not None:
            latents_BTD = self._normalise(latents_BTD)
        return replace(batch, latents_BTD=latents_BTD)
