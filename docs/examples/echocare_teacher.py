"""Run EchoCare's encoder: an adapter around MONAI's Swin transformer.

    pip install monai einops
    PYTHONPATH=docs/examples usjepa-cache build lung.zarr --pipeline us-jepa --source frames \
        --teacher echocare_teacher:echocare --set cache.teacher.name=echocare \
        --set cache.teacher.weights=echocare_encoder.pth \
        --set 'cache.teacher.mean=[...]' --set 'cache.teacher.std=[...]'

No public source states the mean and deviation of its input: ask its authors, and compare with `build --reference`.
`cache.teacher.block` chooses the map: 1 has a stride of 2 pixels, 5 of 32; the default, 4, of 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from monai.networks.nets.swin_unetr import SwinTransformer

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.adapters import adapter_identity
from usjepa.cache.teacher.checkpoints.loading import load_into
from usjepa.cache.teacher.checkpoints.weights import read_weights
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.cache.teacher.teacher import ModuleTeacher

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import TeacherSettings

SIZE, WIDTH, DEPTHS, HEADS, WINDOW = 256, 128, (2, 2, 18, 2), (4, 8, 16, 32), (8, 8)


class Map(torch.nn.Module):
    """Images [B, 3, S, S] in, the places of one map out, row by row: [B, T, D]."""

    def __init__(self, swin: torch.nn.Module, stage: int) -> None:
        """Wrap MONAI's encoder, which gives five maps."""
        super().__init__()
        self.swin, self.stage = swin, stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the chosen map."""
        found: torch.Tensor = self.swin(x)[self.stage - 1]
        return found.flatten(2).transpose(1, 2)


def echocare(settings: TeacherSettings, pixel_size: int, device: torch.device) -> ModuleTeacher:
    """Return the teacher for stored pixels of edge `pixel_size`."""
    if settings.weights is None or not {"mean", "std"} <= settings.model_fields_set:
        raise UsageError("echocare: state cache.teacher.weights, cache.teacher.mean and cache.teacher.std.")
    swin = SwinTransformer(
        in_chans=3, embed_dim=WIDTH, window_size=WINDOW, patch_size=(2, 2), depths=DEPTHS, num_heads=HEADS,
        spatial_dims=2, use_v2=True,
    )  # fmt: skip
    load_into(swin, read_weights(Path(settings.weights)).tensors, settings.weights)  # strictly; mask_token is dropped
    stage = settings.block or 4
    model = Map(swin, stage)
    given = ModelInput(settings.image_size or SIZE, 3, settings.mean, settings.std)
    edge = given.size // 2**stage
    return ModuleTeacher(
        name=settings.name,
        model=model,
        input=given,
        identity={**adapter_identity(echocare, model, given), "stage": stage},
        grid=(edge, edge),
        dim=WIDTH * 2 ** (stage - 1),
        device=device,
    )
