"""Build timm vision transformers, and run one as a frozen teacher.

Prefix tokens (class, registers) are dropped; patch tokens come row-major over the grid. The input derivation (scale,
grey repeated, resize, mean and std) is part of the identity: a wrong normalisation is another teacher.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.teacher.checkpoints.loading import load_into
from usjepa.cache.teacher.checkpoints.weights import read_weights, weights_hash
from usjepa.cache.teacher.exported import weights_file
from usjepa.cache.teacher.model_input import RESIZE, ModelInput
from usjepa.cache.teacher.teacher import ModuleTeacher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings

_INPUT_VERSION = 1
_SETTING = "cache.teacher.architecture"
_RESOLVED = {"name", "weights", "key", "seed", "patch_size", "depth", "image_size", "mean", "std"}
"""Hard fields that count by what they become: the layer's name, a hash of weights, arguments for timm, the input."""


def build_timm(architecture: str, args: Mapping[str, Any], setting: str = _SETTING) -> torch.nn.Module:
    """Build a timm model without a head, with random weights drawn from torch's generator as it stands.

    Args:
        architecture: timm name.
        args: what `timm.create_model` takes beside it: img_size, patch_size, ...
        setting: the field that named the architecture, for messages.

    Raises:
        UsageError: timm has no such model, or can't build it with these arguments.
    """
    if not timm.is_model(architecture):
        raise UsageError(f"{setting}={architecture}: timm has no such model{nearest_models(architecture)}")
    try:
        model: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **args)
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:
        listed = ", ".join(f"{name}={value}" for name, value in args.items())
        raise UsageError(f"{setting}={architecture}: timm can't build it with {listed}: {error}") from error
    return model


def is_vit(model: torch.nn.Module) -> bool:
    """Return whether a timm model gives prefix and patch tokens on one grid, as its vision transformers do."""
    needed = ("blocks", "patch_embed", "num_prefix_tokens", "forward_intermediates")
    return all(hasattr(model, name) for name in needed)


def nearest_models(name: str) -> str:
    """Return a hint at the timm names closest to a misspelt one."""
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f"; did you mean {', '.join(close)}?" if close else "."


@dataclass(frozen=True)
class ViT(ModuleTeacher):
    """A timm vision transformer as a teacher: the patch tokens of its last block, or of an earlier one."""

    block: int | None = None
    """Tokens are taken after this many blocks; none: after the last."""
    norm: bool = True
    """Apply the model's final normalisation."""

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens [B, T, D] after the chosen block."""
        last = len(self.model.blocks) - 1 if self.block is None else self.block - 1  # type: ignore[arg-type]
        forward: Callable[..., list[torch.Tensor]] = self.model.forward_intermediates  # type: ignore[assignment]
        found = forward(
            x_BCSS, indices=[last], norm=self.norm, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        return found[0]


def load_vit(settings: TeacherSettings, pixel_size: int, device: torch.device) -> ViT:
    """Build a timm ViT as a teacher.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: where it computes.

    Raises:
        UsageError: unknown architecture, missing weights, a block it does not have, or a precision the device lacks.
        TeacherError: the checkpoint does not fit.
        DamageError: the weights are an exported encoder's, and not as they were exported.
    """
    if settings.compute == "fp16" and device.type == "cpu":
        raise UsageError("cache.teacher.compute=fp16 needs a GPU. Use fp32 or bf16 on a CPU.")
    edge = settings.image_size or pixel_size
    model, args = _build(settings, edge)
    weights, warning = _load_weights(model, settings)
    given = ModelInput(edge, 3, settings.mean, settings.std)
    hard = {name: value for name, value in hard_values(settings, "latents").items() if name not in _RESOLVED}
    identity: dict[str, Json] = {
        **hard,
        "model_args": args,
        "weights": weights,
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
    rows, columns = (int(n) for n in model.patch_embed.grid_size)  # type: ignore[union-attr]
    return ViT(
        settings.name,
        model,
        given,
        identity,
        (rows, columns),
        int(model.num_features),  # type: ignore[arg-type]
        device,
        settings.compute,
        warning,
        settings.block,
        settings.norm,
    )


def _build(settings: TeacherSettings, edge: int) -> tuple[torch.nn.Module, dict[str, Json]]:
    """Return the timm model with seeded random weights, and the arguments it was made with."""
    name = settings.architecture
    if "." in name:
        raise UsageError(f"{_SETTING}={name}: a tag names weights, which come from a file. Give {name.split('.')[0]}.")
    args: dict[str, Json] = {"img_size": edge}
    if settings.patch_size is not None:
        args["patch_size"] = settings.patch_size
    if settings.depth is not None:
        args["depth"] = settings.depth
    # A model's random weights must not depend on what was drawn before it was built.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build_timm(name, args)
    if not is_vit(model):
        raise UsageError(f"{_SETTING}={name}: not a ViT. A teacher must give patch tokens on one grid.")
    blocks = len(model.blocks)  # type: ignore[arg-type]
    if settings.block is not None and settings.block > blocks:
        raise UsageError(f"cache.teacher.block={settings.block}: {name} has {blocks} blocks.")
    return model, args


def _load_weights(model: torch.nn.Module, settings: TeacherSettings) -> tuple[str, str | None]:
    """Fill in the weights; return their hash and the warning that a person must read."""
    if settings.weights is None:
        warning = (
            f"teacher {settings.name!r} ({settings.architecture}) has RANDOM weights (seed {settings.seed}): its "
            "latents carry no learned knowledge. Give a checkpoint with --teacher FILE for real work."
        )
        return weights_hash(model.state_dict()), warning
    path = Path(settings.weights)
    file = weights_file(path)
    weights = read_weights(file, settings.key)
    report = load_into(model, weights.tensors, str(file))
    told = [weights.summary(), report.summary() if report.dropped or report.resampled else ""]
    note = "; ".join(text for text in told if text)
    return weights.hash, f"{file}: {note}" if note else None
