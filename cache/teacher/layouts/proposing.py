"""Propose the architecture that fits a checkpoint which was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch

from usjepa.cache.errors import TeacherError
from usjepa.cache.teacher.checkpoints.loading import stripped
from usjepa.cache.teacher.layouts.shapes import FAMILIES, USUAL, depth_of, family_of, structure
from usjepa.cache.teacher.names.presets import PRESETS

if TYPE_CHECKING:
    from usjepa.cache.teacher.checkpoints.sets import Tensors
    from usjepa.cache.teacher.layouts.layout import Translated

_SIZES = {
    (192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge",
    (1408, 40): "giant", (1536, 40): "giant", (1152, 27): "so400m",
}  # fmt: skip
"""(width, blocks) -> the size in timm's names."""
_ENDINGS = ("224", "384", "dinov2", "reg4_dinov2", "clip_224", "gap_224", "siglip_gap_224", "siglip_gap_384",
            "dinov3_qkvb", "dinov3", "518")  # fmt: skip


def proposal(found: Translated, architecture: str, where: str, heads: bool = False) -> str:
    """Return what to say instead of an architecture that does not fit, for the end of an error message.

    Args:
        found: the weights that were refused.
        architecture: what they were taken for.
        where: names the checkpoint in messages.
        heads: the number of heads was stated, and so all that shapes tell was taken from them already.
    """
    family = family_of(architecture) if found.layout is None else found.layout.family
    tensors = stripped(found.tensors, USUAL)
    try:
        told = structure(tensors, family, where)
    except TeacherError:
        told = {}
    fitting = [name for name in _candidates(tensors) if _fits(name, tensors)]
    size = (
        f"{told['embed_dim']} wide, {told['depth']} blocks, patches of {told['patch_size']} pixels"
        if told
        else "all of them"
    )
    unseen = "The heads, the activation and the epsilon can't be seen in a file"
    if fitting:
        return (
            f"Its shapes ({size}) are those of --set cache.teacher.architecture={fitting[0]}"
            + (f" (also {', '.join(fitting[1:])})" if len(fitting) > 1 else "")
            + f". {unseen}: make sure that they are that model's, or state cache.teacher.args.num_heads."
            + _presets(fitting, where)
        )
    if not told:
        return (
            f"Is it a checkpoint of {architecture}? Its tensors are not named like a vision transformer's that usjepa "
            "knows. `usjepa-cache teachers` lists known teachers; docs/how-to/add-a-teacher.md adds another."
        )
    if heads:
        return (
            f"Its shapes: {size}. The heads are stated, and what is named above has no place in a model of these: "
            "name its own timm model as cache.teacher.architecture, or write an adapter (docs/how-to/add-a-teacher.md)."
        )
    return (
        f"Its shapes: {size}. {unseen}; state the heads, and the rest is taken from the shapes: "
        f"--set cache.teacher.architecture={FAMILIES[family]} --set cache.teacher.args.num_heads=N."
        + _presets([FAMILIES[family]] if found.layout is not None and family != "vit" else [], where)
    )


def _presets(architectures: list[str], where: str) -> str:
    """Return which published teachers have one of these architectures, to be named by their preset."""
    named = [name for name, preset in PRESETS.items() if preset.architecture in architectures]
    return f" Published teachers of this kind: {', '.join(named)} (--teacher NAME={where})." if named else ""


def _candidates(tensors: Tensors) -> list[str]:
    """Return timm's names of models of this size, of every kind."""
    projection = tensors.get("patch_embed.proj.weight")
    if projection is None:
        return []
    size, patch = _SIZES.get((int(projection.shape[0]), depth_of(tensors))), int(projection.shape[-1])
    if size is None:
        return []
    names = [f"vit_{size}_patch{patch}_{ending}" for ending in _ENDINGS]
    names += [f"deit_{size}_distilled_patch{patch}_224", f"deit3_{size}_patch{patch}_224"]
    names += [f"beit_{size}_patch{patch}_224", f"beitv2_{size}_patch{patch}_224", f"samvit_{size}_patch{patch}"]
    names += [f"eva02_{size}_patch{patch}_{ending}" for ending in ("224", "336", "clip_224")]
    return [name for name in names if timm.is_model(name)]


def _fits(name: str, tensors: Tensors) -> bool:
    """Return whether a model has exactly these names and shapes, whatever the grid of its positions."""
    try:
        with torch.device("meta"):
            wanted = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    except (TypeError, RuntimeError, AssertionError, ValueError, NotImplementedError):
        return False
    placed = ("pos_embed", "relative_position_bias_table", "rel_pos_h", "rel_pos_w")
    extra = [key for key in tensors if key not in wanted and not key.startswith(("head", "decoder", "mask_token"))]
    return not extra and all(
        name in tensors
        and (tensors[name].shape == target.shape or (name.endswith(placed) and tensors[name].ndim == target.ndim))
        for name, target in wanted.items()
    )
