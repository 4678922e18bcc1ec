"""Hold what learns, say in which precision it computes and when its gradients travel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from usjepa.train.run.plan import TrainingPlan
    from usjepa.train.run.ranks import Ranks


@dataclass(frozen=True)
class Learner:
    """A model, its optimizer, and the plan and ranks that it learns under."""

    model: torch.nn.Module
    """A `Jepa` or `Contrast`, or what compiles it and averages its gradients over ranks."""
    optimizer: torch.optim.Optimizer
    plan: TrainingPlan
    ranks: Ranks


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
