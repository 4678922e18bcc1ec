"""Join student and predictor into one module, with the optimizer over them.

Shape suffixes: B images, G those of one group, C channels, S edge of stored pixels, N context length, M target blocks,
P target length, D width.
"""

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
    from usjepa.train.masks.groups import Group
    from usjepa.train.masks.tensors import MaskTensors

_WITHOUT_DECAY = ("pos_embed", "cls_token", "reg_token", "mask_token")


class Jepa(nn.Module):
    """Student and predictor: everything that is trained."""

    def __init__(self, settings: TrainSettings, image_size: int, grid: tuple[int, int], teacher_dim: int) -> None:
        """Draw the weights from `settings.seed`.

        Args:
            settings: the `train:` section.
            image_size: S, pixels.
            grid: patches of the targets, down and across.
            teacher_dim: D of the targets.

        Raises:
            UsageError: the student can't be built, or its patch grid is not the targets'.
        """
        super().__init__()
        self.student = Student(settings.student, image_size, settings.seed, settings.recompute)
        if self.student.grid != grid:
            raise UsageError(
                f"The patch grid of the student {settings.student.architecture} is {_text(self.student.grid)}, that of "
                f"the targets {_text(grid)}: set train.student.patch_size to {image_size // grid[0]}."
            )
        self.predictor = Predictor(
            settings.predictor, self.student.dim, teacher_dim, grid, settings.seed, settings.recompute,
            visible=settings.visible_weight > 0,
        )  # fmt: skip

    def forward(self, pixels_BCSS: torch.Tensor, masks: MaskTensors) -> torch.Tensor:
        """Return the predictions at the masks' targets, float [B, M, P, D], from the patches of their contexts.

        With `train.visible_weight`, those at the contexts stand behind them, as `masks.asked` names the patches.

        An empty batch gives a scalar 0 that depends on every parameter, because other ranks wait for its gradients.

        Args:
            pixels_BCSS: float, in [0, 1].
            masks: of the B images.
        """
        if not len(masks):
            return 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        longest = max(masks.targets_BMP.shape[2], masks.context_BN.shape[1] if self.predictor.visible else 0)
        order_B = np.concatenate([group.images_G for group in masks.groups])
        parts = []
        for group in masks.groups:
            found_GMPD = self._predicted(pixels_BCSS, masks, group)
            parts.append(functional.pad(found_GMPD, (0, 0, 0, longest - found_GMPD.shape[2])))
        back_B = torch.from_numpy(np.argsort(order_B)).to(pixels_BCSS.device)
        out: torch.Tensor = torch.cat(parts)[back_B]
        return out

    def _predicted(self, pixels_BCSS: torch.Tensor, masks: MaskTensors, group: Group) -> torch.Tensor:
        """Return the predictions for the images of a group, [G, M, P of the group, D]."""
        images_G = torch.from_numpy(group.images_G).to(pixels_BCSS.device)
        N, P = group.context, group.targets
        context_GN = masks.context_BN[images_G, :N]
        valid_GN = masks.context_valid_BN[images_G, :N] if group.context_padded else None
        targets_valid_GMP = masks.targets_valid_BMP[images_G, :, :P] if group.targets_padded else None
        context_GND = self.student(pixels_BCSS[images_G], context_GN, valid_GN)
        out: torch.Tensor = self.predictor(
            context_GND, context_GN, valid_GN, masks.targets_BMP[images_G, :, :P], targets_valid_GMP
        )
        return out


def _text(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW with two groups: matrices decay; biases, norms, positions and learnable tokens do not."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in _WITHOUT_DECAY
        (undecayed if plain else decayed).append(parameter)
    groups = [{"params": decayed, "decays": True}, {"params": undecayed, "decays": False}]
    return torch.optim.AdamW(groups, lr=settings.lr_start, betas=settings.betas, weight_decay=0.0)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate and weight decay of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return every tensor that a step changes: `model.<name>` and `optimizer.<kind>.<name of the parameter>`."""
    state = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{kind}.{name}"] = value.detach()
    return state


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Load the tensors of `training_state`; raises RuntimeError when a name or shape differs.

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
