"""Infer from the shapes of weights what they tell of a model, as timm's arguments.

Width, depth, patch, channels, prefix tokens and the kind of MLP can be seen in shapes. The number of heads, the
activation and the epsilon of normalisations can't: they are never part of the answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.teacher.checkpoints.sets import Tensors

FAMILIES = {
    "vit": "vit_base_patch16_224",
    "eva": "vit_base_patch16_dinov3_qkvb",
    "beit": "beit_base_patch16_224",
    "sam": "samvit_base_patch16",
}
"""Kind of model -> a timm name of it, whose other arguments are given."""

USUAL = {"patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "cls_token", "pos_embed"}
"""Names that show where wrapping prefixes end."""


def family_of(architecture: str) -> str:
    """Return the kind of a timm model by its name: a key of `FAMILIES`."""
    for family in ("beit", "sam"):
        if architecture.startswith(family):
            return family
    return "eva" if architecture.startswith("eva") or "_dinov3" in architecture else "vit"


def structure(tensors: Tensors, family: str, where: str) -> dict[str, Json]:
    """Return the arguments of timm's class that follow from shapes.

    Args:
        tensors: under timm's names, without prefixes.
        family: kind of model: a key of `FAMILIES`.
        where: names the checkpoint in messages.

    Raises:
        TeacherError: they are no such model's.
    """
    try:
        args = _common(tensors)
        args |= {"vit": _vit, "eva": _eva, "beit": _beit, "sam": _sam}[family](tensors, args)
    except (KeyError, IndexError) as error:
        raise TeacherError(f"{where}: its tensors are no vision transformer's: none is named {error}.") from error
    return args


def _common(tensors: Tensors) -> dict[str, Any]:
    projection = tensors["patch_embed.proj.weight"]
    args: dict[str, Any] = {
        "embed_dim": int(projection.shape[0]),
        "depth": depth_of(tensors),
        "patch_size": int(projection.shape[-1]),
    }
    if projection.shape[1] != 3:
        args["in_chans"] = int(projection.shape[1])
    if (fc1 := tensors.get("blocks.0.mlp.fc1.weight")) is not None:
        args["mlp_ratio"] = _ratio(int(fc1.shape[0]), args["embed_dim"])
    return args


def depth_of(tensors: Tensors) -> int:
    """Return the number of blocks."""
    return len({match[1] for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))})


def _ratio(hidden: int, width: int) -> float:
    """Return a ratio of which timm makes the hidden width again: the integer part of ratio times width."""
    return hidden // width if hidden % width == 0 else (hidden + 0.5) / width


def _vit(tensors: Tensors, args: dict[str, Any]) -> dict[str, Json]:
    registers = int(tensors["reg_token"].shape[1]) if "reg_token" in tensors else 0
    class_token = "cls_token" in tensors
    found: dict[str, Json] = {"class_token": class_token}
    apart = _positions_are_of_patches_alone(tensors, class_token + registers)
    if registers:
        found |= {"reg_tokens": registers, "no_embed_class": apart is not False}
    elif apart and class_token:
        found["no_embed_class"] = True
    if "pos_embed" not in tensors:
        found["pos_embed"] = "none"
    if "blocks.0.ls1.gamma" in tensors:
        found["init_values"] = 1e-5
    if "norm_pre.weight" in tensors:
        found["pre_norm"] = True
    if "blocks.0.attn.qkv.bias" not in tensors:
        found["qkv_bias"] = False
    if "blocks.0.attn.q_norm.bias" in tensors:
        found["qk_norm"] = True
    if tensors["blocks.0.mlp.fc2.weight"].shape[1] * 2 == tensors["blocks.0.mlp.fc1.weight"].shape[0]:
        found |= {"mlp_layer": "swiglu_packed", "act_layer": "silu"}
    if "norm.weight" not in tensors and "fc_norm.weight" in tensors:
        found["global_pool"] = "avg"
    elif not class_token:
        found |= {"global_pool": "avg", "fc_norm": False}
    return found


def _positions_are_of_patches_alone(tensors: Tensors, prefix: int) -> bool | None:
    """Return whether class token and registers have no position of their own; None where shapes don't tell."""
    count = int(tensors["pos_embed"].shape[1]) if "pos_embed" in tensors else 0
    alone, together = (math.isqrt(n) ** 2 == n for n in (count, max(count - prefix, 0)))
    return None if alone == together else alone


def _eva(tensors: Tensors, args: dict[str, Any]) -> dict[str, Json]:
    found: dict[str, Json] = {
        "num_reg_tokens": int(tensors["reg_token"].shape[1]) if "reg_token" in tensors else 0,
        "qkv_bias": "blocks.0.attn.q_bias" in tensors,
    }
    if (gate := tensors.get("blocks.0.mlp.fc1_g.weight")) is not None:
        ratio = _ratio(int(gate.shape[0]), args["embed_dim"])
        found |= {"swiglu_mlp": True, "swiglu_align_to": 1, "mlp_ratio": ratio}
    return found


def _beit(tensors: Tensors, args: dict[str, Any]) -> dict[str, Json]:
    pooled = "norm.weight" not in tensors and "fc_norm.weight" in tensors
    return {
        "qkv_bias": "blocks.0.attn.q_bias" in tensors,
        "use_abs_pos_emb": "pos_embed" in tensors,
        "use_rel_pos_bias": "blocks.0.attn.relative_position_bias_table" in tensors,
        "use_shared_rel_pos_bias": "rel_pos_bias.relative_position_bias_table" in tensors,
        "init_values": 0.1 if "blocks.0.gamma_1" in tensors else None,
        "global_pool": "avg" if pooled else "token",
    }


def _sam(tensors: Tensors, args: dict[str, Any]) -> dict[str, Json]:
    """Blocks whose tables of relative positions are longer than most look at the whole image."""
    lengths = [int(tensors[f"blocks.{block}.attn.rel_pos_h"].shape[0]) for block in range(args["depth"])]
    ordinary = min(Counter(lengths))
    return {
        "window_size": (ordinary + 1) // 2,
        "global_attn_indexes": [block for block, length in enumerate(lengths) if length != ordinary],
        "use_abs_pos": "pos_embed" in tensors,
        "neck_chans": int(tensors["neck.0.weight"].shape[0]) if "neck.0.weight" in tensors else 0,
    }
