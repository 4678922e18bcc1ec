"""Asks the teacher for many rows, batch by batch, some of which are under way at any time, so that a GPU need not wait.

While a GPU computes a batch, the next one is brought to it, and the latents of the one before travel to page-locked
memory, in stored precision. Nothing here waits for the last batch of a shard: whoever writes the shard does.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.errors import TeacherError
from usjepa.cache.store.precision import check_finite
from usjepa.cache.teacher.on_device import StoredForm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from numpy.typing import NDArray

    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Teacher

    Check = Callable[[], None]

_UNDER_WAY = 2
"""Batches that a GPU has been asked for and has not answered yet: one that it computes, one that waits for it."""


def ask_teacher(
    teacher: Teacher, pixels: NDArray[np.uint8], numbers: NDArray[np.int64], batch_size: int, check: Check
) -> NDArray[np.float32]:
    """Return float32 latents [n, T, D] of uint8 pixels [n, C, S, S]; batches never leave the given rows.

    Raises:
        LatentError: a latent is not finite; the row and the value are named.
    """
    found = np.empty((len(pixels), teacher.grid[0] * teacher.grid[1], teacher.dim), np.float32)
    for start in range(0, len(pixels), batch_size):
        check()
        into = found[start : start + batch_size]
        into[:] = _answer(teacher, torch.from_numpy(pixels[start : start + batch_size])).cpu().numpy()
        check_finite(into, numbers[start : start + batch_size])
    return found


def _answer(teacher: Teacher, pixels_BCSS: torch.Tensor) -> torch.Tensor:
    """Return a batch's latents; a shape that could be stretched to the stored one must not pass in silence."""
    latents_BTD = teacher(pixels_BCSS)
    wanted = [len(pixels_BCSS), teacher.grid[0] * teacher.grid[1], teacher.dim]
    if list(latents_BTD.shape) != wanted or latents_BTD.dtype != torch.float32:
        given = f"{list(latents_BTD.shape)} {str(latents_BTD.dtype).removeprefix('torch.')}"
        raise TeacherError(
            f"teacher {teacher.name}: gave latents of shape {given}, not the {wanted} float32 that it states."
        )
    return latents_BTD


class Asker:
    """Asks one teacher for the latents of one layer, as they are stored; any thread may wait for an answer."""

    def __init__(self, teacher: Teacher, layer: Layer, batch_size: int, check: Check) -> None:
        """`check` is called before each batch and may raise to stop."""
        self._teacher, self._layer, self._batch_size, self._check = teacher, layer, batch_size, check
        self._form = StoredForm(layer, teacher.device)
        self._under_way: deque[_Batch] = deque()

    def ask(self, pixels: NDArray[np.uint8], first_row: int, into: Mapping[str, NDArray[Any]]) -> Answer:
        """Ask for consecutive rows; batches never leave them.

        Args:
            pixels: uint8 [n, C, S, S].
            first_row: the number of the first row.
            into: layer name -> C-contiguous [n, *shape] of the stored dtype, which the latents, and the scales of int8,
                go to; page-locked where there is a GPU, or it waits for each batch to be copied.

        Returns:
            What says when `into` is filled in.

        Raises:
            LatentError: a latent of an earlier batch can't be stored; the row and the value are named.
        """
        values = torch.from_numpy(into[self._layer.name])
        scales = torch.from_numpy(into[f"scales/{self._teacher.name}"]) if self._layer.dtype == "int8" else None
        batches = []
        for start in range(0, len(pixels), self._batch_size):
            self._check()
            if len(self._under_way) == _UNDER_WAY:
                self._under_way.popleft().receive()
            here = slice(start, start + self._batch_size)
            with _current(self._teacher.device):
                batch = _Batch(self._teacher, pixels[here], first_row + start, self._form)
                batch.copy_to(values[here], None if scales is None else scales[here])
            batches.append(batch)
            self._under_way.append(batch)
        return Answer(batches)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: events are recorded there, and they say nothing of what another computes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Answer:
    """The batches of one call of `Asker.ask`."""

    def __init__(self, batches: Sequence[_Batch]) -> None:
        self._batches = batches

    def wait(self) -> None:
        """Wait until all latents have arrived.

        Raises:
            LatentError: one can't be stored; the row and the value are named.
        """
        for batch in self._batches:
            batch.receive()


class _Batch:
    """Images that the teacher was asked for, and whose latents may not have arrived yet."""

    def __init__(self, teacher: Teacher, pixels: NDArray[np.uint8], first_row: int, form: StoredForm) -> None:
        self._first_row, self._form = first_row, form
        self._on_gpu = teacher.device.type == "cuda"
        batch_BCSS = torch.from_numpy(pixels)
        batch_BCSS = batch_BCSS.pin_memory() if self._on_gpu else batch_BCSS
        self._latents_BTD: torch.Tensor | None = _answer(teacher, batch_BCSS)
        self._stored = form.of(self._latents_BTD)
        self._arrived: torch.cuda.Event | None = None
        self._lock = threading.Lock()

    def copy_to(self, values_BTD: torch.Tensor, scales_BT: torch.Tensor | None) -> None:
        """Have the latents copied, on a GPU without waiting for them; `receive` says when that is done."""
        values_BTD.copy_(self._stored.values_BTD, non_blocking=True)
        if scales_BT is not None and self._stored.scales_BT is not None:
            scales_BT.copy_(self._stored.scales_BT, non_blocking=True)
        self._fits_B = self._stored.fits_B
        if self._on_gpu:
            self._fits_B = torch.empty(self._stored.fits_B.shape, dtype=torch.bool, pin_memory=True)
            self._fits_B.copy_(self._stored.fits_B, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        del self._stored  # the device's memory is for the next batch

    def receive(self) -> None:
        """Wait for the latents, and look whether all could be stored; whatever is raised is raised each time."""
        with self._lock:
            if self._latents_BTD is None:
                return
            if self._arrived is not None:
                self._arrived.synchronize()
            if not self._fits_B.all():
                self._form.refuse(self._latents_BTD, self._first_row)
            self._latents_BTD = None  # only now: who asks after a failure must not take it for an answer
