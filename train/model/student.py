"""The student: a timm ViT that computes only what it may see.

The model is timm's own and its weights keep timm's names, so that what is exported loads in plain timm. Only the way
through it differs: after patches are embedded and given their positions, the masked ones are dropped, and the blocks
run on the rest and the prefix tokens. Contexts of unequal length are padded; a padded token is a key to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.cache.teacher.vit import build_timm
from usjepa.train.model.initial import seeded, sincos_positions

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import StudentSettings

_PART = 0


class Student(nn.Module):
    """A timm `VisionTransformer` over visible patches; `vit` is the plain model."""

    def __init__(self, settings: StudentSettings, image_size: int, seed: int, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.settings = settings
        self.model_args = _model_args(settings, image_size)
        channels = settings.channels
        self.input = ModelInput(image_size, channels, settings.mean[:channels], settings.std[:channels])
        with seeded(seed, _PART):
            self.vit = _create(settings.architecture, self.model_args)
        self.grid = _grid(self.vit, settings, image_size)
        self.dim = int(self.vit.embed_dim)
        self.prefix = int(self.vit.num_prefix_tokens)
        _place(self.vit, self.grid)

    def normalised(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], float [B, C, S, S], as the model's input: grey repeated, mean and std taken off."""
        wanted = self.settings.channels
        if pixels_BCSS.shape[1] not in (1, wanted):
            raise UsageError(
                f"the pixels have {pixels_BCSS.shape[1]} channels and the student takes {wanted}: set "
                f"train.student.channels={pixels_BCSS.shape[1]}"
            )
        return self.input.normalised(pixels_BCSS)

    def forward(
        self, pixels_BCSS: torch.Tensor, context_BN: torch.Tensor, valid_BN: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Context tokens [B, N, D] of images (float in [0, 1], [B, C, S, S]) that are seen only at `context_BN`.

        `context_BN` holds patch indices (int64); `valid_BN` (bool) says which are no padding, None that none is. What
        stands at padded places of the result is finite and means nothing.
        """
        tokens = self.vit._pos_embed(self.vit.patch_embed(self.normalised(pixels_BCSS)))
        prefix_BnD, patches_BTD = tokens[:, : self.prefix], tokens[:, self.prefix :]
        visible_BND = patches_BTD.gather(1, context_BN[..., None].expand(-1, -1, self.dim))
        tokens = self.vit.norm_pre(torch.cat([prefix_BnD, visible_BND], dim=1))
        mask = None
        if valid_BN is not None:
            keys_BL = torch.cat([valid_BN.new_ones(len(valid_BN), self.prefix), valid_BN], dim=1)
            mask = keys_BL[:, None, None, :]
        for block in self.vit.blocks:
            tokens = run_block(block, tokens, mask, self.recompute)
        out: torch.Tensor = self.vit.norm(tokens)[:, self.prefix :]
        return out

    def encode(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """All tokens of whole images (float in [0, 1]), prefix first: [B, prefix + T, D], as timm gives them."""
        out: torch.Tensor = self.vit.forward_features(self.normalised(pixels_BCSS))
        return out


def run_block(block: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, recompute: bool) -> torch.Tensor:
    """A transformer block; with `recompute` its activations are not kept but computed again for the gradients."""
    if recompute and torch.is_grad_enabled():
        again: torch.Tensor = checkpoint(block, tokens, attn_mask=mask, use_reentrant=False)
        return again
    out: torch.Tensor = block(tokens, attn_mask=mask)
    return out


def student_grid(settings: StudentSettings, image_size: int) -> tuple[int, int]:
    """Patches down and across of the student that these settings make; raises UsageError as `Student` does."""
    with torch.device("meta"):
        vit = _create(settings.architecture, _model_args(settings, image_size))
    return _grid(vit, settings, image_size)


def _model_args(settings: StudentSettings, image_size: int) -> dict[str, Any]:
    """What `timm.create_model` takes beside the name and `num_classes=0`."""
    args: dict[str, Any] = {"img_size": image_size, "in_chans": settings.channels}
    if settings.patch_size is not None:
        args["patch_size"] = settings.patch_size
    if settings.depth is not None:
        args["depth"] = settings.depth
    return args


def _create(architecture: str, args: dict[str, Any]) -> VisionTransformer:
    model = build_timm(architecture, args, "train.student.architecture")
    if not isinstance(model, VisionTransformer) or model.pos_embed is None:
        raise UsageError(
            f"train.student.architecture={architecture} is a {type(model).__name__}: the student must be a timm "
            "VisionTransformer with absolute positions, e.g. vit_base_patch16_224"
        )
    return model


def _grid(vit: VisionTransformer, settings: StudentSettings, image_size: int) -> tuple[int, int]:
    """Patches down and across; refuses a patch edge that doesn't divide the image's."""
    patch = vit.patch_embed.patch_size
    if image_size % patch[0] or image_size % patch[1]:
        raise UsageError(
            f"{settings.architecture} has patches of {patch[0]}x{patch[1]} pixels, which do not divide the stored "
            f"{image_size}x{image_size}: set train.student.patch_size"
        )
    return image_size // patch[0], image_size // patch[1]


def _place(vit: VisionTransformer, grid: tuple[int, int]) -> None:
    """Start the learnable positions from sines and cosines: a random start costs epochs to learn the grid (ours)."""
    patches_TD = sincos_positions(int(vit.embed_dim), grid)
    positions = vit.get_parameter("pos_embed")
    with torch.no_grad():
        places = positions[:, -len(patches_TD) :]
        if places.shape[1:] != patches_TD.shape:
            raise UsageError(f"positions of the student are {tuple(positions.shape)}, its grid is {grid}")
        places.copy_(patches_TD)
