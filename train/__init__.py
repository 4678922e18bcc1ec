"""Train an encoder from a store: stage two.

Rooms, from the top: `run` (plan, loop, resume), `record` (checkpoints, log, export), `data` (order and batches),
`objective` (targets and loss), `model` (student and predictor), `masks`; `counter.py` below them draws random numbers.
For training loops of your own, import from here what `__all__` names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usjepa.train.data.dataset import StoreDataset
    from usjepa.train.masks.multiblock import Masks, sample_masks
    from usjepa.train.model.predictor import Predictor
    from usjepa.train.model.student import Student
    from usjepa.train.record.export import EncoderConfig, export_encoder, load_encoder
    from usjepa.train.run.loop import train

__all__ = [
    "EncoderConfig",
    "Masks",
    "Predictor",
    "StoreDataset",
    "Student",
    "export_encoder",
    "load_encoder",
    "sample_masks",
    "train",
]

_MODULES = {
    "EncoderConfig": "record.export",
    "Masks": "masks.multiblock",
    "Predictor": "model.predictor",
    "StoreDataset": "data.dataset",
    "Student": "model.student",
    "export_encoder": "record.export",
    "load_encoder": "record.export",
    "sample_masks": "masks.multiblock",
    "train": "run.loop",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `usjepa-train --help` must not wait for torch.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
