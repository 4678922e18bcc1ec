"""Run a timm vision transformer as a frozen teacher.

Prefix tokens (class, registers) are dropped; patch tokens come row-major over the grid. The input derivation (scale,
grey repeated, resize, mean and std) is part of the identity: a wrong normalisation is another teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.teacher.fitting import fit
from usjepa.cache.teacher.model_input import RESIZE, ModelInput
from usjepa.cache.teacher.teacher import ModuleTeacher
from usjepa.cache.teacher.timm_models import gives_maps, is_vit

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.fitting import Fitted

_INPUT_VERSION = 1
_RESOLVED = {
    "name", "weights", "key", "seed", "patch_size", "depth", "args", "positions", "image_size", "mean", "std",
}  # fmt: skip
"""Hard fields that count by what they become: the layer's name, a hash of weights, arguments for timm, the input."""


@dataclass(frozen=True)
class ViT(ModuleTeacher):
    """A timm vision transformer as a teacher: the patch tokens of its last block, or of an earlier one."""

    block: int | None = None
    """Tokens are taken after this many blocks; none: after the last."""
    norm: bool = True
    """Apply the model's final normalisation."""

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens [B, T, D] after the chosen block."""
        return _intermediate(self.model, x_BCSS, self.block, self.norm, "NLC", len(self.model.blocks))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Maps(ModuleTeacher):
    """Another timm model as a teacher: the places of its last map of features, or of an earlier stage's, row by row."""

    block: int | None = None
    """Which stage's map (of SAM: which block's), counted from 1; none: the last."""
    norm: bool = True
    """Apply the model's final normalisation, if it has one for maps; SAM's is its neck."""

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the map's places [B, H W, D]."""
        found = _intermediate(self.model, x_BCSS, self.block, self.norm, "NCHW", _stages(self.model))
        return found.flatten(2).transpose(1, 2)


def _stages(model: torch.nn.Module) -> int:
    return len(model.feature_info)  # type: ignore[arg-type]


def _intermediate(
    model: torch.nn.Module, x_BCSS: torch.Tensor, block: int | None, norm: bool, form: str, count: int
) -> torch.Tensor:
    last = (block or count) - 1
    forward: Callable[..., list[torch.Tensor]] = model.forward_intermediates  # type: ignore[assignment]
    return forward(x_BCSS, indices=[last], norm=norm, stop_early=True, output_fmt=form, intermediates_only=True)[0]


def load_vit(settings: TeacherSettings, pixel_size: int, device: torch.device) -> ViT | Maps:
    """Build a timm model as a teacher.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: where it computes.

    Raises:
        UsageError: unknown architecture, missing weights, a block it does not have, or a precision the device lacks.
        TeacherError: the checkpoint does not fit.
        DamageError: the weights are an exported encoder's, and not as they were exported.
    """
    if settings.compute.startswith("fp16") and device.type == "cpu":
        raise UsageError(f"cache.teacher.compute={settings.compute} needs a GPU. Use fp32 or bf16 on a CPU.")
    edge = settings.image_size or pixel_size
    fitted = fit(settings, edge)
    model = fitted.model
    _check_fits(model, settings, edge)
    given = ModelInput(edge, _channels(fitted, settings), settings.mean, settings.std)
    hard = {name: value for name, value in hard_values(settings, "latents").items() if name not in _RESOLVED}
    identity: dict[str, Json] = {
        **hard,
        **fitted.more,
        "model_args": fitted.args,
        "weights": fitted.weights,
        "tokens": "patch",
        "input": {
            "version": _INPUT_VERSION,
            "size": edge,
            "resize": RESIZE if edge != pixel_size else "none",
            "scale": "1/255",
            "mean": list(given.mean),
            "std": list(given.std),
        },
    }
    if is_vit(model):
        rows, columns = (int(n) for n in model.patch_embed.grid_size)  # type: ignore[union-attr]
        dim = int(model.num_features)  # type: ignore[arg-type]
    else:
        dim, rows, columns = _tried(model, given.channels, settings, edge)
    kind = ViT if is_vit(model) else Maps
    return kind(
        settings.name,
        model,
        given,
        identity,
        (rows, columns),
        dim,
        device,
        settings.compute,
        fitted.note,
        settings.compile,
        block=settings.block,
        norm=settings.norm,
    )


def _tried(model: torch.nn.Module, channels: int, settings: TeacherSettings, edge: int) -> tuple[int, int, int]:
    """Return width, rows and columns of the map that a model gives, from one black image."""
    try:
        with torch.no_grad():
            black = torch.zeros(1, channels, edge, edge)
            found = _intermediate(model.eval(), black, settings.block, settings.norm, "NCHW", _stages(model))
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError) as error:
        raise UsageError(
            f"{settings.architecture}: gives no map of features for images of {edge} x {edge} ({error}). Set "
            "cache.teacher.image_size to a size it takes."
        ) from error
    rows, columns = int(found.shape[2]), int(found.shape[3])
    if edge % rows or edge % columns:
        raise UsageError(
            f"cache.teacher.image_size={edge}: {settings.architecture} gives a map of {rows} x {columns}, which does "
            "not divide it evenly, so that latents would lie beside what they show. Take a multiple of its stride."
        )
    return int(found.shape[1]), rows, columns


def _check_fits(model: torch.nn.Module, settings: TeacherSettings, edge: int) -> None:
    """Refuse a model that gives no tokens on a grid, an input that it would cut, and a block that it does not have."""
    if not is_vit(model) and not gives_maps(model):
        raise UsageError(
            f"cache.teacher.architecture={settings.architecture}: gives neither patch tokens nor maps of features."
        )
    embed = getattr(getattr(model, "patch_embed", None), "proj", None)
    kernel = getattr(embed, "kernel_size", None)
    if isinstance(kernel, tuple) and kernel == getattr(embed, "stride", None) and edge % kernel[0]:
        raise UsageError(
            f"cache.teacher.image_size={edge}: {settings.architecture} has patches of {kernel[0]} pixels, and the rest "
            f"would be cut off, so that latents lie beside what they show. Take a multiple of {kernel[0]}."
        )
    count = len(model.blocks) if is_vit(model) else _stages(model)  # type: ignore[arg-type]
    if settings.block is not None and settings.block > count:
        kind = "blocks" if hasattr(model, "blocks") else "stages"
        raise UsageError(f"cache.teacher.block={settings.block}: {settings.architecture} has {count} {kind}.")


def _channels(fitted: Fitted, settings: TeacherSettings) -> int:
    """Return the channels that the model takes; UsageError where the normalisation has another number of them."""
    channels = int(fitted.args.get("in_chans", 3))
    if channels != len(settings.mean):
        raise UsageError(
            f"cache.teacher.mean: {len(settings.mean)} values, and the model takes {channels} "
            f"{'channel' if channels == 1 else 'channels'}. Give mean and std one value per channel."
        )
    return channels
