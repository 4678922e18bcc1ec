"""Run a timm ViT on visible patches only, as the student.

The model is timm's own and its weights keep timm's names, so that the export loads in plain timm. Only the forward pass
differs: after patches are embedded and given their positions, masked ones are dropped, and the blocks run on the prefix
tokens and the rest. Contexts of unequal length are padded; no token attends to padding.

Shape suffixes: B images, C channels, S edge of stored pixels, T patches, N context length, L tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.cache.teacher.timm_models import build_timm
from usjepa.train.model.initial import seeded, sincos_positions

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import StudentSettings

_PART = 0


class Student(nn.Module):
    """A timm `VisionTransformer` over visible patches.

    Attributes:
        vit: the timm model.
        model_args: what timm created it with.
        grid: patches down and across.
        dim: D.
        prefix: number of prefix tokens.
    """

    def __init__(self, settings: StudentSettings, image_size: int, seed: int, recompute: bool = False) -> None:
        """Draw the weights from a seed.

        Args:
            settings: the `train.student` section.
            image_size: S, pixels.
            seed: of the run.
            recompute: keep no activations, compute them again in the backward pass.

        Raises:
            UsageError: timm can't build such a model, or its patches do not divide the image.
        """
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
        _set_positions(self.vit, self.grid)

    def normalised(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the model's input, float [B, channels, S, S], from pixels in [0, 1]: grey repeated, standardised."""
        wanted = self.settings.channels
        if pixels_BCSS.shape[1] not in (1, wanted):
            raise UsageError(
                f"The pixels have {pixels_BCSS.shape[1]} channels and the student takes {wanted}: set "
                f"train.student.channels={pixels_BCSS.shape[1]}."
            )
        return self.input.normalised(pixels_BCSS)

    def forward(
        self, pixels_BCSS: torch.Tensor, context_BN: torch.Tensor, valid_BN: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the tokens of the visible patches, float [B, N, D]; at padded places they are finite and meaningless.

        Args:
            pixels_BCSS: float, in [0, 1].
            context_BN: int64, indices of the visible patches.
            valid_BN: bool, False at padding; None: nothing is padded.
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
        """Return all tokens of whole images in [0, 1], prefix first: float [B, prefix + T, D], as timm does."""
        out: torch.Tensor = self.vit.forward_features(self.normalised(pixels_BCSS))
        return out


def run_block(block: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, recompute: bool) -> torch.Tensor:
    """Return a transformer block's output; with `recompute`, activations are computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        again: torch.Tensor = checkpoint(block, tokens, attn_mask=mask, use_reentrant=False)
        return again
    out: torch.Tensor = block(tokens, attn_mask=mask)
    return out


def student_grid(settings: StudentSettings, image_size: int) -> tuple[int, int]:
    """Return the patches down and across of a student without building it; raises UsageError as `Student` does."""
    with torch.device("meta"):
        vit = _create(settings.architecture, _model_args(settings, image_size))
    return _grid(vit, settings, image_size)


def _model_args(settings: StudentSettings, image_size: int) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` beside the name and `num_classes=0`."""
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
            "VisionTransformer with absolute positions, e.g. vit_base_patch16_224."
        )
    return model


def _grid(vit: VisionTransformer, settings: StudentSettings, image_size: int) -> tuple[int, int]:
    """Return the patches down and across; raises UsageError if they do not fill the image."""
    patch = vit.patch_embed.patch_size
    if image_size % patch[0] or image_size % patch[1]:
        raise UsageError(
            f"{settings.architecture} has patches of {patch[0]}x{patch[1]} pixels, which do not divide the stored "
            f"{image_size}x{image_size}: set train.student.patch_size."
        )
    return image_size // patch[0], image_size // patch[1]


def _set_positions(vit: VisionTransformer, grid: tuple[int, int]) -> None:
    """Start the learnable positions from sines and cosines (ours): a random start spends epochs on the grid."""
    patches_TD = sincos_positions(int(vit.embed_dim), grid)
    positions = vit.get_parameter("pos_embed")
    with torch.no_grad():
        places = positions[:, -len(patches_TD) :]
        if places.shape[1:] != patches_TD.shape:
            raise UsageError(
                f"The student's positions of shape {tuple(positions.shape)} do not fit its patch grid {grid}: "
                "choose another train.student.architecture."
            )
        places.copy_(patches_TD)
