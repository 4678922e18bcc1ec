"""Say in which precision a step computes, and when its gradients travel between ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from usjepa.train.run.plan import TrainingPlan


def autocast(plan: TrainingPlan) -> AbstractContextManager[Any]:
    """Compute in bf16 on a GPU if the recipe says so; a CPU computes in fp32."""
    if plan.device.type == "cuda" and plan.settings.compute == "bf16":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def unsynchronised(model: torch.nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Keep gradients to this rank, if wanted: those of a later part travel with them."""
    if wanted and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
