"""Student and predictor as one module, and the optimizer over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from usjepa.cache.errors import UsageError
from usjepa.train.model.predictor import Predictor
from usjepa.train.model.student import Student

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.train.data.batches import TrainBatch
    from usjepa.train.masks.groups import Group

_UNDECAYED = ("pos_embed", "cls_token", "reg_token", "mask_token")


class Model(nn.Module):
    """Everything that is trained."""

    def __init__(self, settings: TrainSettings, image_size: int, grid: tuple[int, int], teacher_dim: int) -> None:
        super().__init__()
        self.student = Student(settings.student, image_size, settings.seed, settings.recompute)
        if self.student.grid != grid:
            raise UsageError(
                f"the student {settings.student.architecture} has a patch grid of {_told(self.student.grid)} and the "
                f"teacher's latents one of {_told(grid)}: set train.student.patch_size to {image_size // grid[0]}"
            )
        self.predictor = Predictor(
            settings.predictor, self.student.dim, teacher_dim, grid, settings.seed, settings.recompute
        )

    def forward(self, pixels_BCSS: torch.Tensor, batch: TrainBatch) -> torch.Tensor:
        """Predicted latents [B, M, P, D] at the batch's targets, from pixels (float in [0, 1]) at its context.

        Of an empty batch: a scalar 0 that every parameter has a part in. The other ranks wait for its gradients.
        """
        if not len(batch):
            return 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        P = batch.targets_BMP.shape[2]
        order_B = np.concatenate([group.images_G for group in batch.groups])
        parts = []
        for group in batch.groups:
            found_GMPD = self._predicted(pixels_BCSS, batch, group)
            parts.append(functional.pad(found_GMPD, (0, 0, 0, P - group.targets)))
        back_B = torch.from_numpy(np.argsort(order_B)).to(pixels_BCSS.device)
        out: torch.Tensor = torch.cat(parts)[back_B]
        return out

    def _predicted(self, pixels_BCSS: torch.Tensor, batch: TrainBatch, group: Group) -> torch.Tensor:
        """Predicted latents [G, M, P of the group, D] of some images."""
        images_G = torch.from_numpy(group.images_G).to(pixels_BCSS.device)
        N, P = group.context, group.targets
        context_GN = batch.context_BN[images_G, :N]
        valid_GN = batch.context_valid_BN[images_G, :N] if group.context_padded else None
        targets_valid_GMP = batch.targets_valid_BMP[images_G, :, :P] if group.targets_padded else None
        context_GND = self.student(pixels_BCSS[images_G], context_GN, valid_GN)
        out: torch.Tensor = self.predictor(
            context_GND, context_GN, valid_GN, batch.targets_BMP[images_G, :, :P], targets_valid_GMP
        )
        return out


def _told(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def make_optimizer(model: Model, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; biases, norms, positions and the learnable tokens don't."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in _UNDECAYED
        (undecayed if plain else decayed).append(parameter)
    groups = [{"params": decayed, "decays": True}, {"params": undecayed, "decays": False}]
    return torch.optim.AdamW(groups, lr=settings.lr_start, betas=settings.betas, weight_decay=0.0)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Give a step its learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def training_state(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything a step changes, by name: `model.<name>` and `optimizer.<kind>.<name of the parameter>`."""
    state = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{kind}.{name}"] = value.detach()
    return state


def restore(model: Model, optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Put back what `training_state` gave; raises RuntimeError when a name or shape differs.

    The optimizer's step counts stay on the CPU, where AdamW keeps them.
    """
    weights = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
    model.load_state_dict(weights, strict=True)
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        if not name.startswith("optimizer."):
            continue
        _, kind, parameter_name = name.split(".", 2)
        parameter = parameters[parameter_name]
        value = tensor.clone() if kind == "step" else tensor.to(parameter.device)
        optimizer.state[parameter][kind] = value
