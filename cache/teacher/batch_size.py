"""Find the largest useful teacher batch by trial, and keep it for the store.

The batch size is part of how a store was computed (other sizes may choose other kernels, hence other last bits), so
a size that was found is kept in the commit records, and every later build of the store uses it again. A trial that
runs out of memory is caught and ends the search.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.teacher import Pass

KEY = "batch_size"
"""Of a found size in a commit's soft identity."""
ON_CPU = 32
"""Images at a time where there is no GPU: a processor is no faster with more."""
_MOST = 1024
_WORTH = 1.05
"""A larger batch must be at least this much faster; the smaller one leaves memory to others."""
_REPEATS = 3


class Choice(NamedTuple):
    """Images per forward pass of the teacher."""

    size: int
    soft: dict[str, Json]
    """Its entry in the commits' soft identity: a size that was found, so that it is used again."""


def choose_batch_size(
    run: Pass, settings: TeacherSettings, channels: int, size: int, kept: Iterable[Mapping[str, Json]]
) -> Choice:
    """Return the batch size of a pass: the recipe's, else that of its layers' commits, else the one found now.

    Args:
        run: the loaded teacher, or several of one pass.
        settings: its settings; without `batch_size` a GPU is searched, and a CPU takes `ON_CPU`.
        channels, size: C and S of the stored pixels.
        kept: the soft identities of the layers' commits.
    """
    if settings.batch_size is not None:
        return Choice(settings.batch_size, {})
    found = kept_batch_size(kept)
    if found is None:
        if run.device.type != "cuda":
            return Choice(ON_CPU, {})
        found = _find_batch_size(_trial(run, channels, size), _free_memory)
    return Choice(found, {KEY: found})


def kept_batch_size(kept: Iterable[Mapping[str, Json]]) -> int | None:
    """Return the batch size found earlier, from the soft identities of a layer's commits; None if none was."""
    sizes = (soft.get(KEY) for soft in kept)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _find_batch_size(rows_per_s: Callable[[int], float], recover: Callable[[], None], most: int = _MOST) -> int:
    """Return the smallest power of two beyond which images per second no longer grow.

    Args:
        rows_per_s: tries a batch of so many images; may raise torch.OutOfMemoryError.
        recover: called after one ran out of memory.
        most: the largest size tried.

    Raises:
        TeacherError: not even one image fits.
    """
    import torch

    best, speed, size = 0, 0.0, 1
    while size <= most:
        try:
            found = rows_per_s(size)
        except torch.OutOfMemoryError:
            recover()
            # Half of what did not fit may fit with nothing to spare: leave as much again.
            best = min(best, max(1, size // 4)) if best else 0
            break
        if best and found < speed * _WORTH and size >= 16:
            break
        best, speed, size = size, max(speed, found), size * 2
    if not best:
        raise TeacherError(
            "not even one image fits the GPU's memory beside the teacher: free the GPU, take a smaller teacher or "
            "--set cache.teacher.compute=bf16."
        )
    return best


def _trial(run: Pass, channels: int, size: int) -> Callable[[int], float]:
    import torch

    from usjepa.cache.teacher.device import synchronise

    def rows_per_s(rows: int) -> float:
        # Not zeros, with which a GPU draws less power and runs faster than with images.
        pixels = torch.randint(0, 256, (rows, channels, size, size), dtype=torch.uint8)
        pixels = pixels.pin_memory() if run.device.type == "cuda" else pixels
        latents = run(pixels)  # the first call chooses kernels
        synchronise(run.device)
        start = time.perf_counter()
        for _ in range(_REPEATS):
            latents = run(pixels)  # while the latents before are still held, as in a build
        synchronise(run.device)
        took = time.perf_counter() - start
        del latents
        return rows * _REPEATS / took

    return rows_per_s


def _free_memory() -> None:
    import torch

    torch.cuda.empty_cache()
