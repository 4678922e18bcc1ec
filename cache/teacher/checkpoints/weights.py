"""Read one set of weights from a checkpoint, and say what else lay there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import xxhash

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.files import read_content
from usjepa.cache.teacher.checkpoints.sets import TOP, Tensors, choose_set, unnamed_average, weight_sets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """One set of weights, under the names that its file gives them."""

    where: str
    """The file, for messages."""
    tensors: Tensors
    name: str = ""
    """Keys that lead to it within the file; "": it lies at the top level."""
    beside: dict[str, int] = field(default_factory=dict)
    """Names of the sets that were not taken -> number of tensors."""
    replaced: tuple[str, ...] = ()
    """Classes of the file's Python objects, of which none was loaded."""

    @property
    def hash(self) -> str:
        """Content hash of the set; the other sets have no part in it."""
        return weights_hash(self.tensors)

    def summary(self) -> str:
        """Return what was taken and what was not, for the log; "" where the file holds nothing else."""
        notes = []
        if self.beside:
            others = ", ".join(f"{name or TOP} ({count})" for name, count in self.beside.items())
            notes.append(f"took {self.name or TOP}; beside it lie {others} (cache.teacher.key chooses)")
        if self.replaced:
            notes.append(f"Python objects not loaded: {', '.join(self.replaced)}")
        return "; ".join(notes)


def read_weights(path: Path, key: str | None = None) -> Weights:
    """Return one set of a checkpoint's weights.

    Args:
        path: a safetensors file, an index of its shards, or a torch file.
        key: name of the set; none: the average of a training where it has one, else its weights.

    Raises:
        UsageError: there is no such file or set, or the file has several and none is known.
        TeacherError: it can't be read, holds no tensors, or one that is not finite.
    """
    content = read_content(path)
    try:
        sets = weight_sets(content.value, path)
    except TeacherError as error:
        if not content.replaced:
            raise
        raise TeacherError(
            f"{error} It holds Python objects, which are never loaded because they could run code: "
            f"{', '.join(content.replaced)}. Save the model's state_dict() where you trust the file."
        ) from error
    name = choose_set(sets, key, path)
    if key is None and (listed := unnamed_average(content.value, name, sets[name])):
        raise UsageError(
            f"{path}: holds a moving average of {name or TOP} as a list without names ({listed}), so which tensor is "
            f"which can't be told. Save the average as a state_dict(), or take the weights that it averages: --set "
            f"cache.teacher.key={name or TOP}."
        )
    for tensor_name, tensor in sets[name].items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TeacherError(f"{path}: tensor {tensor_name} holds values that are not finite.")
    beside = {other: len(tensors) for other, tensors in sets.items() if other != name}
    return Weights(str(path), sets[name], name, beside, content.replaced)


def weights_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the xxh3-128 (hex) over name, shape, dtype and bytes of every tensor, in name order."""
    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}\0{list(tensor.shape)}\0{str(tensor.dtype).removeprefix('torch.')}\0".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
