"""Make teachers that load well and then fail: adapters for `--teacher module:function`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from usjepa.cache.teacher.adapters import adapter_identity
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.cache.teacher.teacher import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import TeacherSettings


class _Failing(torch.nn.Module):
    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        return x_BCSS @ torch.zeros(7, 7)


class _NotFinite(torch.nn.Module):
    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x_BCSS), 4, 8), torch.nan)


class _Steady(torch.nn.Module):
    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        return x_BCSS.flatten(1)[:, :32].reshape(-1, 4, 8)


def steady(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Teacher:
    return _made(_Steady(), settings, pixel_size, device)


def failing(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Teacher:
    return _made(_Failing(), settings, pixel_size, device)


def not_finite(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Teacher:
    return _made(_NotFinite(), settings, pixel_size, device)


def _made(model: torch.nn.Module, settings: TeacherSettings, pixel_size: int, device: torch.device) -> Teacher:
    given = ModelInput(pixel_size, 3, settings.mean, settings.std)
    return ModuleTeacher(settings.name, model, given, adapter_identity(failing, model, given), (2, 2), 8, device)
