"""Translate a configuration of transformers to settings of a teacher.

It states what shapes can't tell: heads, activation, epsilon. What it states and timm can't do is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.teacher.checkpoints.positions import Positions

_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu", "relu": "relu",
}  # fmt: skip
"""transformers' name -> timm's."""


@dataclass(frozen=True)
class _Kind:
    """What a `model_type` of transformers is in timm."""

    architecture: str
    positions: Positions | None = "plain"
    """How its class resamples positions."""
    takes_activation: bool = True
    """Whether timm's class lets the activation be chosen; it is GELU otherwise."""
    must: Mapping[str, Json] = field(default_factory=dict)
    """Fields that must have these values where they are stated."""


_VIT = _Kind("vit_base_patch16_224")
_CLIP = _Kind("vit_base_patch16_clip_224")
_SIGLIP = _Kind("vit_base_patch16_siglip_gap_224")
_KINDS = {
    "vit": _VIT,
    "vit_mae": _VIT,
    "vit_msn": _VIT,
    "deit": _VIT,
    "ijepa": _VIT,
    "dinov2": _Kind("vit_base_patch14_dinov2"),
    "dinov2_with_registers": _Kind("vit_base_patch14_reg4_dinov2", "antialiased"),
    "dinov3_vit": _Kind("vit_base_patch16_dinov3_qkvb", None, False, {"rope_theta": 100.0}),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "beit": _Kind("beit_base_patch16_224", None, False, {"use_mask_token": False}),
}
_ALWAYS = {"attention_bias": True, "use_head": True}


def settings_of_config(config: Mapping[str, Any], where: str) -> dict[str, object]:
    """Return fields of a teacher's settings that a transformers configuration tells.

    Args:
        config: the content of `config.json`.
        where: names the file in messages.

    Raises:
        UsageError: a kind of model, an activation or another field that no timm model here has.
    """
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise UsageError(
            f"{where}: model_type {config.get('model_type')!r} is none that can be translated ({', '.join(_KINDS)}). "
            "Write an adapter for it: docs/how-to/add-a-teacher.md."
        )
    vision = config.get("vision_config")
    told: Mapping[str, Any] = vision if isinstance(vision, dict) else config
    for name, wanted in kind.must.items():
        if name in told and told[name] not in (wanted, None):
            raise UsageError(f"{where}: {name} = {told[name]!r}, and timm's model has {wanted!r}.")
    heads = told.get("num_attention_heads", 12)
    args: dict[str, Json] = {"num_heads": _number(heads, "num_attention_heads", where)}
    eps = told.get("layer_norm_eps", 1e-5 if kind is _CLIP else 1e-6 if kind is _SIGLIP else 1e-12)
    args["eps"] = float(eps)
    activation = _activation(told, kind, where)
    if activation is not None:
        args["act_layer"] = activation
    return {
        "architecture": kind.architecture,
        "args": args,
        "positions": kind.positions,
        "patch_size": None,
        "depth": None,
    }


def _number(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{where}: {name} = {value!r}: must be a whole number above 0.")
    return value


def _activation(told: Mapping[str, Any], kind: _Kind, where: str) -> str | None:
    """Return timm's name of the activation; None where it is the class's own."""
    if told.get("use_swiglu_ffn") or told.get("use_gated_mlp"):
        return None  # shapes tell a gated MLP, whose activation is SiLU
    default = "quick_gelu" if kind is _CLIP else "gelu_pytorch_tanh" if kind is _SIGLIP else "gelu"
    named = str(told.get("hidden_act", default))
    found = _ACTIVATIONS.get(named)
    if found is None or (found != "gelu" and not kind.takes_activation):
        raise UsageError(f"{where}: hidden_act = {named!r}, which timm's {kind.architecture} can't have.")
    return found if kind.takes_activation else None
