"""Build timm models by name and arguments, without a head."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import timm
from timm.layers.mlp import SwiGLUPacked
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_SETTING = "cache.teacher.architecture"
_CLASSES = {"swiglu_packed": SwiGLUPacked}
"""Values of `mlp_layer` in settings -> timm's classes; activations have names in timm itself."""


def build_timm(architecture: str, args: Mapping[str, Any], setting: str = _SETTING) -> torch.nn.Module:
    """Build a timm model without a head, with random weights drawn from torch's generator as it stands.

    Args:
        architecture: timm name.
        args: what `timm.create_model` takes beside it: img_size, patch_size, ...; and `eps`, of all layer norms.
        setting: the field that named the architecture, for messages.

    Raises:
        UsageError: timm has no such model, or can't build it with these arguments.
    """
    if not timm.is_model(architecture):
        raise UsageError(f"{setting}={architecture}: timm has no such model{nearest_models(architecture)}")
    try:
        model: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **_for_timm(args))
    except (TypeError, RuntimeError, AssertionError, ValueError, AttributeError, ZeroDivisionError) as error:
        listed = ", ".join(f"{name}={value}" for name, value in args.items())
        raise UsageError(f"{setting}={architecture}: timm can't build it with {listed}: {error}") from error
    if "eps" in args:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = args["eps"]
    if args.get("neck_chans") == 0:
        model.neck = nn.Identity()  # timm would put a norm there
    return model


def _for_timm(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as timm takes them: without those of ours, and classes for their names."""
    known = {name: value for name, value in args.items() if name != "eps"}
    if known.get("mlp_layer") in _CLASSES:
        known["mlp_layer"] = _CLASSES[known["mlp_layer"]]
    return known


def is_vit(model: torch.nn.Module) -> bool:
    """Return whether a timm model gives prefix and patch tokens on one grid, as its vision transformers do."""
    needed = ("blocks", "patch_embed", "num_prefix_tokens", "forward_intermediates")
    return (
        all(hasattr(model, name) for name in needed)
        and hasattr(model.patch_embed, "grid_size")
        and not isinstance(model, VisionTransformerSAM)  # whose blocks keep maps, and whose norm is convolutions
    )


def gives_maps(model: torch.nn.Module) -> bool:
    """Return whether a timm model gives maps of features of its stages or blocks."""
    return hasattr(model, "forward_intermediates")


def nearest_models(name: str) -> str:
    """Return a hint at the timm names closest to a misspelt one."""
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f"; did you mean {', '.join(close)}?" if close else "."
