"""Lend memory that batches are read into again and again.

The first touch of fresh memory costs as much as filling it, and page-locked memory is dear to get.
"""

from __future__ import annotations

import math
import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.store.memory import aligned_empty

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.store.layers import Layer

_TAKE_WITHIN_S = 60.0


def _pinned_empty(shape: Sequence[int], dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised array in page-locked memory, from which a GPU copies without the processor's help."""
    import torch

    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw: NDArray[Any] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return raw.view(dtype).reshape(shape)


class BatchMemory:
    """Memory of one batch: an array per layer, as long as the longest batch so far."""

    def __init__(self, pinned: bool = False) -> None:
        self._empty = _pinned_empty if pinned else aligned_empty
        self._arrays: dict[str, tuple[Layer, NDArray[Any]]] = {}

    def arrays(self, layers: Mapping[str, Layer], rows: int) -> dict[str, NDArray[Any]]:
        """Return [rows, *shape] of each layer, the same memory each time; what it held before is overwritten."""
        return {name: self._array(layer, rows) for name, layer in layers.items()}

    def _array(self, layer: Layer, rows: int) -> NDArray[Any]:
        known, held = self._arrays.get(layer.name, (None, None))
        if held is None or len(held) < rows or (known is not layer and not _fits(held, layer)):
            held = self._empty((rows, *layer.shape), layer.dtype)
            self._arrays[layer.name] = layer, held
        return held[:rows]


def _fits(array: NDArray[Any], layer: Layer) -> bool:
    return array.shape[1:] == layer.shape and array.dtype == layer.dtype


class Ring:
    """A fixed number of batch memories. Who takes one has it alone until it is released."""

    def __init__(self, slots: int, pinned: bool = False) -> None:
        self._free: queue.SimpleQueue[BatchMemory] = queue.SimpleQueue()
        self._lent: set[BatchMemory] = set()
        self.slots = slots
        for _ in range(slots):
            self._free.put(BatchMemory(pinned))

    def take(self, timeout_s: float = _TAKE_WITHIN_S) -> BatchMemory:
        """Return a free memory, waiting for a release where all are lent.

        Raises:
            UsageError: none was released in time.
        """
        try:
            memory = self._free.get(timeout=timeout_s)
        except queue.Empty as error:
            raise UsageError(
                f"all {self.slots} batch memories are lent and none came back within {timeout_s:g} s: release a batch "
                "once nothing reads it any more."
            ) from error
        self._lent.add(memory)
        return memory

    def release(self, memory: BatchMemory) -> None:
        """Give a memory back; arrays over it will change. Raises UsageError when it is not lent."""
        if memory not in self._lent:
            raise UsageError("a batch memory was released that is not lent: released twice, or of another ring.")
        self._lent.remove(memory)
        self._free.put(memory)

    @contextmanager
    def lend(self) -> Iterator[BatchMemory]:
        """Take for the length of a `with` block."""
        memory = self.take()
        try:
            yield memory
        finally:
            self.release(memory)


def memory_for(layer: Layer, rows: int, out: Mapping[str, NDArray[Any]] | None) -> NDArray[Any]:
    """Return where a layer's rows go; raises UsageError when the caller's array does not fit."""
    if out is None:
        return aligned_empty((rows, *layer.shape), layer.dtype)
    given = out.get(layer.name)
    if given is None:
        raise UsageError(f"out: no array for layer {layer.name!r}; give one for every layer that is read.")
    fits = given.dtype == np.dtype(layer.dtype) and given.shape[1:] == layer.shape and len(given) >= rows
    if not fits or not given.flags.c_contiguous or not given.flags.writeable:
        raise UsageError(
            f"out: layer {layer.name!r} needs a writeable C-contiguous {layer.dtype} array of at least "
            f"{(rows, *layer.shape)}, not {given.dtype} {given.shape}."
        )
    return given[:rows]
