"""From positions to batches on the device: a background thread reads the store and draws masks while a step runs.

What is in a batch depends on (seed, step, rows) alone, never on the thread's timing. Targets are the store's latents,
or with a teacher at hand (`targets: online`) its answer on the very same pixels; nothing else differs.

Images whose region is too small for their masks are taken out here, before the student sees them, and reported.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.cells import patch_validity
from usjepa.cache.store.memory import Ring
from usjepa.train.masks.groups import Group, groups_of
from usjepa.train.masks.multiblock import Masks, sample_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.train import MaskSettings

Ints = NDArray[np.int64]
AHEAD = 2
"""Batches prepared while one is computed on."""


@dataclass(frozen=True)
class Request:
    """One batch to be made."""

    step: int
    """Names the draw of its masks: the global step, or a constant for validation."""
    positions_R: Ints
    """int64 positions in the store's table, before unusable images are taken out."""


@dataclass(frozen=True)
class TrainBatch:
    """One batch on the device; B counts usable images only."""

    step: int
    rows_B: Ints
    """int64 [B] row numbers, on the host."""
    unusable_rows: Ints
    """int64, on the host: rows left out because their region is too small."""
    fingerprint: int
    """Sum over images of xxh3-64 of row and masks, modulo 2^64 as int64: parts of a batch add up to the whole's."""
    pixels_BCSS: torch.Tensor
    """uint8"""
    latents_BTD: torch.Tensor | None
    """float32, normalised as the loss wants them; None until the online teacher has been asked."""
    context_BN: torch.Tensor
    """int64"""
    context_valid_BN: torch.Tensor
    """bool"""
    targets_BMP: torch.Tensor
    """int64"""
    targets_valid_BMP: torch.Tensor
    """bool"""
    groups: tuple[Group, ...]
    """Images that are computed together."""

    def __len__(self) -> int:
        return len(self.rows_B)


class BatchMaker:
    """Reads rows of a store and makes batches of them."""

    def __init__(
        self,
        store: Store,
        layer: str | None,
        grid: tuple[int, int],
        masks: MaskSettings,
        seed: int,
        device: torch.device,
        online: Callable[[torch.Tensor], torch.Tensor] | None = None,
        ahead: int = AHEAD,
        normalise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """`layer` names the teacher whose latents are read; None with `online`, which is asked instead."""
        if (layer is None) == (online is None):
            raise UsageError("targets come either from the store or from a teacher in the loop: give one of the two")
        self._store, self._layer, self._grid, self._masks = store, layer, grid, masks
        self._seed, self._device, self._online, self._ahead = seed, device, online, ahead
        self._normalise = normalise
        self._layers = self._layers_to_read()
        # Copies run beside the computation only in a stream of their own.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Two: the background thread's, and one for a batch made in the foreground (validation) meanwhile.
        self._ring = Ring(2, pinned=device.type == "cuda")

    def _layers_to_read(self) -> list[str]:
        wanted = ["pixels"]
        if self._masks.regions:
            wanted.append("regions")
        if self._layer is not None:
            wanted.append(f"latents/{self._layer}")
            if f"scales/{self._layer}" in self._store.layers:
                wanted.append(f"scales/{self._layer}")
        lacking = [name for name in wanted if name not in self._store.layers]
        if lacking:
            raise UsageError(f"{self._store!r} has no layer {lacking[0]}, which this recipe trains with")
        return wanted

    def stream(self, requests: Iterable[Request]) -> Generator[tuple[TrainBatch, float]]:
        """Batches in the order asked for, each with the seconds waited for it.

        What goes wrong in the thread is raised here, at the batch it belongs to. Leaving the loop early (close the
        iterator, or let an exception pass) waits for the read in progress and drops the rest.
        """
        pending: deque[Future[TrainBatch]] = deque()
        todo = iter(requests)
        pool = ThreadPoolExecutor(1, "usjepa-batches")
        try:
            while True:
                while len(pending) <= self._ahead and (request := next(todo, None)) is not None:
                    pending.append(pool.submit(self._make, request))
                if not pending:
                    return
                start = time.perf_counter()
                batch = pending.popleft().result()
                waited = time.perf_counter() - start
                yield self._received(batch), waited
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def make(self, request: Request) -> TrainBatch:
        """One batch, made here and now."""
        return self._received(self._make(request))

    def _make(self, request: Request) -> TrainBatch:
        """In the background thread: read, draw masks, send to the device.

        The batch owns its memory: what was read lies in the ring's, which the next batch is read into.
        """
        rows_R = self._store.rows[request.positions_R]
        described = {name: layer for name, layer in self._store.layers.items() if name in self._layers}
        with self._ring.lend() as memory:
            read = self._store.read(rows_R, layers=self._layers, out=memory.arrays(described, len(rows_R)))
            return self._made(request, rows_R, read)

    def _made(self, request: Request, rows_R: Ints, read: Batch) -> TrainBatch:
        masks = self._draw(request.step, rows_R, read)
        kept = np.flatnonzero(masks.usable_B)
        masks = masks if len(kept) == len(rows_R) else _shortened(masks, kept)
        copying = torch.cuda.stream(self._copies) if self._copies is not None else nullcontext()
        with copying:
            batch = TrainBatch(
                step=request.step,
                rows_B=rows_R[kept],
                unusable_rows=np.delete(rows_R, kept),
                fingerprint=_fingerprint(rows_R[kept], masks),
                pixels_BCSS=self._owned(_picked(read.pixels, kept)),
                latents_BTD=self._targets(read, kept),
                context_BN=self._sent(masks.context_BN),
                context_valid_BN=self._sent(masks.context_valid_BN),
                targets_BMP=self._sent(masks.targets_BMP),
                targets_valid_BMP=self._sent(masks.targets_valid_BMP),
                groups=groups_of(masks),
            )
            if self._copies is not None:
                self._copies.synchronize()  # the thread waits, so that the computing one need not
        return batch

    def _draw(self, step: int, rows_R: Ints, read: Batch) -> Masks:
        validity_RT = None
        if self._masks.regions:
            validity_RT = patch_validity(read.regions, self._store.size, self._store.size // self._grid[0])
        return sample_masks(self._seed, step, rows_R, self._grid, self._masks, validity_RT)

    def _targets(self, read: Batch, kept: Ints) -> torch.Tensor | None:
        if self._online is not None:
            return None
        latents_RTD = read.targets(str(self._device))
        if len(kept) == len(latents_RTD):
            return latents_RTD
        if self._copies is None:
            return torch.from_numpy(latents_RTD.numpy()[kept])  # no loop of torch's in this thread: see to_targets
        return latents_RTD[torch.from_numpy(kept).to(self._device)]

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._copies is None:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def _owned(self, array: NDArray[Any]) -> torch.Tensor:
        """Send what may lie in the ring's memory; without a device of its own it is copied out."""
        return torch.from_numpy(array.copy()) if self._copies is None else self._sent(array)

    def _received(self, batch: TrainBatch) -> TrainBatch:
        """In the computing thread: ask the online teacher; on a GPU, tie the memory to the stream that uses it."""
        if self._copies is not None:
            for field in fields(batch):
                value = getattr(batch, field.name)
                if isinstance(value, torch.Tensor):
                    value.record_stream(torch.cuda.current_stream(self._device))
        latents_BTD = batch.latents_BTD
        if not len(batch):
            return replace(batch, latents_BTD=torch.empty(0, self._grid[0] * self._grid[1], 0, device=self._device))
        if self._online is not None:
            latents_BTD = self._online(batch.pixels_BCSS)
        if self._normalise is not None and latents_BTD is not None:
            latents_BTD = self._normalise(latents_BTD)
        return replace(batch, latents_BTD=latents_BTD)


def _picked(array: NDArray[Any], kept: Ints) -> NDArray[Any]:
    return array if len(kept) == len(array) else array[kept]


def _shortened(masks: Masks, kept: Ints) -> Masks:
    """The masks of some images, padded to their own longest: what is left out must not leave a trace."""
    context_valid, targets_valid = masks.context_valid_BN[kept], masks.targets_valid_BMP[kept]
    N = max(1, int(context_valid.sum(-1).max(initial=0)))
    P = max(1, int(targets_valid.sum(-1).max(initial=0)))
    return Masks(
        masks.context_BN[kept, :N],
        context_valid[:, :N],
        masks.targets_BMP[kept, :, :P],
        targets_valid[:, :, :P],
        masks.usable_B[kept],
    )


def _fingerprint(rows_B: Ints, masks: Masks) -> int:
    """The padding, which depends on the neighbours, does not count."""
    contexts_B = masks.context_valid_BN.sum(axis=-1)
    targets_BM = masks.targets_valid_BMP.sum(axis=-1)
    total = 0
    for image, row in enumerate(rows_B):
        digest = xxhash.xxh3_64(row.tobytes())
        digest.update(masks.context_BN[image, : contexts_B[image]].tobytes())
        digest.update(targets_BM[image].tobytes())
        digest.update(masks.targets_BMP[image][masks.targets_valid_BMP[image]].tobytes())
        total += digest.intdigest()
    return wrapped(total)


def wrapped(total: int) -> int:
    """Return an integer modulo 2^64, as a signed 64-bit number."""
    return (total + 2**63) % 2**64 - 2**63


def fingerprint_text(total: int) -> str:
    """Return 16 hex digits of a (summed) fingerprint, for the log."""
    return f"{total % 2**64:016x}"
