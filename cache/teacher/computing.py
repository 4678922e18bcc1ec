"""Compute the latents of many rows, batch by batch, without letting a GPU wait.

While a GPU computes a batch, the next one is brought to it, and the latents of the one before travel to page-locked
memory, in stored precision. Nothing here waits for the last batch of a shard: the thread that writes the shard does.

Shape suffixes: B rows of a batch, C channels, S edge of the stored pixels, T patch tokens, D width.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.errors import TeacherError, UsjepaError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.store.precision import LatentError, check_finite
from usjepa.cache.teacher.quantiser import DeviceQuantiser
from usjepa.cache.teacher.teacher import Alone
from usjepa.cache.terminal.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from numpy.typing import NDArray

    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Pass, Teacher

_IN_FLIGHT = 2
"""Batches that a GPU has been given and has not finished: one that it computes, one that waits for it."""


def compute_latents(
    teacher: Teacher, pixels: NDArray[np.uint8], numbers: NDArray[np.int64], batch_size: int
) -> NDArray[np.float32]:
    """Return float32 latents [n, T, D] of uint8 pixels [n, C, S, S]; batches never leave the given rows.

    Args:
        teacher: the loaded teacher.
        pixels: of the rows, uint8 [n, C, S, S].
        numbers: [n] row numbers, for messages.
        batch_size: rows per forward pass.

    Raises:
        LatentError: a latent is not finite; the row and the value are named.
        TeacherError: the teacher gives latents of another shape than it states.
    """
    return compute_all(Alone(teacher), pixels, numbers, batch_size)[0]


def compute_all(
    run: Pass, pixels: NDArray[np.uint8], numbers: NDArray[np.int64], batch_size: int
) -> list[NDArray[np.float32]]:
    """Return what `compute_latents` does, for each teacher of a pass."""
    found = [np.empty((len(pixels), *_tokens(teacher)), np.float32) for teacher in run.teachers]
    for start in range(0, len(pixels), batch_size):
        safe_point()
        here = slice(start, start + batch_size)
        wanted = range(len(run.teachers))
        for into, latents_BTD in zip(found, _forward(run, wanted, torch.from_numpy(pixels[here])), strict=True):
            into[here] = latents_BTD.cpu().numpy()
            check_finite(into[here], numbers[here])
    return found


def try_teachers(run: Pass, channels: int, edge: int) -> None:
    """Compute one image of grey levels, so that a teacher that can't work fails in seconds.

    Args:
        run: the loaded teacher, or several of one pass.
        channels: C of the pixels that it will be given.
        edge: S of them, in pixels.

    Raises:
        TeacherError: its forward pass fails, or gives latents that are not finite or of another shape than it states.
    """
    levels = np.arange(channels * edge * edge, dtype=np.uint32).reshape(1, channels, edge, edge)
    teacher = run.teachers[0]
    try:
        compute_all(run, (levels % 251).astype(np.uint8), np.zeros(1, np.int64), 1)
    except LatentError as error:
        raise TeacherError(
            f"teacher {teacher.name}: can't be used, tried on one image before the scan: {error}"
        ) from error
    except (UsjepaError, OSError, MemoryError):
        raise
    except Exception as error:  # an adapter's own
        if isinstance(error, RuntimeError) and refusal(error) is not None:
            raise
        first = str(error).strip().partition("\n")[0]
        raise TeacherError(
            f"teacher {teacher.name}: its forward pass fails on one image of {channels} x {edge} x {edge} "
            f"({type(error).__name__}: {first}). Is cache.teacher.image_size the one that it takes?"
        ) from error


def _tokens(teacher: Teacher) -> tuple[int, int]:
    """Return (T, D) of its latents."""
    return teacher.grid[0] * teacher.grid[1], teacher.dim


def _forward(run: Pass, wanted: Sequence[int], pixels_BCSS: torch.Tensor) -> list[torch.Tensor]:
    """Return a batch's latents; a shape that could be stretched to the stored one must not pass in silence."""
    found = run(pixels_BCSS, wanted)
    for place, latents_BTD in zip(wanted, found, strict=True):
        teacher = run.teachers[place]
        stated = [len(pixels_BCSS), *_tokens(teacher)]
        if list(latents_BTD.shape) != stated or latents_BTD.dtype != torch.float32:
            given = f"{list(latents_BTD.shape)} {str(latents_BTD.dtype).removeprefix('torch.')}"
            raise TeacherError(
                f"teacher {teacher.name}: gave latents of shape {given}, not the {stated} float32 that it states."
            )
    return found


class LatentComputer:
    """Computes the latents of a pass's layers as they are stored; any thread may wait for a result."""

    def __init__(self, run: Pass, layers: Iterable[Layer], batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        stored = {layer.teacher: layer for layer in layers if layer.kind == "latents"}
        self._quantisers = [DeviceQuantiser(stored[teacher.name], run.device) for teacher in run.teachers]
        self._in_flight: deque[_Batch] = deque()

    def compute(
        self, pixels: NDArray[np.uint8], exists: NDArray[np.bool_], first_row: int, into: Mapping[str, NDArray[Any]]
    ) -> PendingLatents:
        """Compute consecutive rows; batches never leave them, and stop requests are noticed before each.

        Args:
            pixels: uint8 [n, C, S, S].
            exists: [n] false at holes. A hole keeps its place in its batch, so that the other rows' last bits do not
                depend on it; its latents mean nothing. A batch of holes alone is not computed.
            first_row: the number of the first row.
            into: layer name -> C-contiguous [n, *shape] of the stored dtype, which the latents, and the scales of int8,
                go to; page-locked where there is a GPU, or it waits for each batch to be copied. Teachers whose
                latents are not among them are left out.

        Returns:
            What is to be waited for before `into` is read.

        Raises:
            LatentError: a latent of an earlier batch can't be stored; the row and the value are named.
            TeacherError: the teacher gives latents of another shape than it states.
        """
        names = [teacher.name for teacher in self._run.teachers]
        wanted = [place for place, name in enumerate(names) if f"latents/{name}" in into]
        arrays = [(into[f"latents/{names[place]}"], into.get(f"scales/{names[place]}")) for place in wanted]
        quantisers = [self._quantisers[place] for place in wanted]
        batches = []
        for start in range(0, len(pixels), self._batch_size):
            safe_point()
            here = slice(start, start + self._batch_size)
            if not exists[here].any():
                continue
            if len(self._in_flight) == _IN_FLIGHT:
                self._in_flight.popleft().receive()
            with _current(self._run.device):
                batch = _Batch(self._run, wanted, pixels[here], exists[here], first_row + start, quantisers)
                batch.copy_to([(values[here], None if s is None else s[here]) for values, s in arrays])
            batches.append(batch)
            self._in_flight.append(batch)
        return PendingLatents(batches)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: events are recorded there, and would miss what another computes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class PendingLatents:
    """The batches of one call of `LatentComputer.compute`."""

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
    """Rows that the teacher was given, and whose latents may not have arrived yet."""

    def __init__(
        self,
        run: Pass,
        wanted: Sequence[int],
        pixels: NDArray[np.uint8],
        exists: NDArray[np.bool_],
        first_row: int,
        quantisers: Sequence[DeviceQuantiser],
    ) -> None:
        self._first_row, self._quantisers = first_row, quantisers
        self._on_gpu = run.device.type == "cuda"
        self._exists_B = torch.from_numpy(exists)
        batch_BCSS = torch.from_numpy(pixels)
        batch_BCSS = batch_BCSS.pin_memory() if self._on_gpu else batch_BCSS
        self._latents: list[torch.Tensor] | None = _forward(run, wanted, batch_BCSS)
        self._stored = [
            quantiser.quantise(latents_BTD) for quantiser, latents_BTD in zip(quantisers, self._latents, strict=True)
        ]
        self._fits: list[torch.Tensor] = []
        """[B] for each teacher."""
        self._arrived: torch.cuda.Event | None = None
        self._lock = threading.Lock()

    def copy_to(self, arrays: Sequence[tuple[NDArray[Any], NDArray[Any] | None]]) -> None:
        """Have the latents copied, on a GPU without waiting for them; `receive` returns when that is done.

        Args:
            arrays: latents and, for int8, scales, of each teacher.
        """
        for stored, (values, scales) in zip(self._stored, arrays, strict=True):
            torch.from_numpy(values).copy_(stored.values_BTD, non_blocking=True)
            if scales is not None and stored.scales_BT is not None:
                torch.from_numpy(scales).copy_(stored.scales_BT, non_blocking=True)
            fits_B = stored.fits_B
            if self._on_gpu:
                fits_B = torch.empty(stored.fits_B.shape, dtype=torch.bool, pin_memory=True)
                fits_B.copy_(stored.fits_B, non_blocking=True)
            self._fits.append(fits_B)
        if self._on_gpu:
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        del self._stored  # the device's memory is for the next batch

    def receive(self) -> None:
        """Wait for the latents, and check that all could be stored; an error is raised to everyone who waits."""
        with self._lock:
            if self._latents is None:
                return
            if self._arrived is not None:
                self._arrived.synchronize()
            for quantiser, fits_B, latents_BTD in zip(self._quantisers, self._fits, self._latents, strict=True):
                if not (fits_B | ~self._exists_B).all():
                    exists_B11 = self._exists_B.to(latents_BTD.device)[:, None, None]
                    quantiser.refuse(latents_BTD.where(exists_B11, 0), self._first_row)
            self._latents = None  # only now: whoever waits after a failure must not take it for a result
