"""Run V-JEPA 2 on still frames: an adapter around transformers' own class.

Its positions turn with the place in a clip, which no timm model has. A frame is shown for the length of one tubelet
(two frames), so that there is one token for each patch.

    pip install transformers
    PYTHONPATH=docs/examples usjepa-cache build lung.zarr --pipeline us-jepa --source frames \
        --teacher vjepa2_teacher:vjepa2 --set cache.teacher.name=vjepa2 --set cache.teacher.weights=FOLDER
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import VJEPA2Model

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.adapters import adapter_identity
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.cache.teacher.teacher import ModuleTeacher

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import TeacherSettings


class StillFrames(torch.nn.Module):
    """Images [B, 3, S, S] in, patch tokens [B, T, D] of one tubelet of equal frames out."""

    def __init__(self, video: VJEPA2Model) -> None:
        """Wrap transformers' model; its predictor is not needed."""
        super().__init__()
        self.encoder = video.encoder
        self.frames = int(video.config.tubelet_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the encoder's tokens, row by row."""
        clip = x[:, None].expand(-1, self.frames, -1, -1, -1)  # [B, frames, 3, S, S]
        tokens: torch.Tensor = self.encoder(pixel_values_videos=clip).last_hidden_state
        return tokens


def vjepa2(settings: TeacherSettings, pixel_size: int, device: torch.device) -> ModuleTeacher:
    """Return the teacher for stored pixels of edge `pixel_size`, from a folder that transformers wrote."""
    if settings.weights is None:
        raise UsageError("vjepa2: name the folder of its weights: --set cache.teacher.weights=FOLDER")
    video = VJEPA2Model.from_pretrained(settings.weights, local_files_only=True)
    size, patch = video.config.crop_size, video.config.patch_size
    if not isinstance(size, int) or not isinstance(patch, int):
        raise UsageError(f"{settings.weights}: crop_size and patch_size must be one number each.")
    model = StillFrames(video)
    given = ModelInput(settings.image_size or size, 3, settings.mean, settings.std)
    edge = given.size // patch
    return ModuleTeacher(
        name=settings.name,
        model=model,
        input=given,
        identity=adapter_identity(vjepa2, model, given),
        grid=(edge, edge),
        dim=int(video.config.hidden_size),
        device=device,
    )
