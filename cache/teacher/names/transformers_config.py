"""Translate a configuration of transformers to settings of a teacher.

It states what shapes can't tell: heads, activation, epsilon. What it states and timm can't do is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    heads: int = 12
    eps: float = 1e-12
    activation: str = "gelu"
    """Of its class where the configuration is silent: transformers leaves out of an inner one what is its default."""
    takes_activation: bool = True
    """Whether timm's class lets the activation be chosen; it is GELU otherwise."""
    must: Mapping[str, Json] = field(default_factory=dict)
    """Fields that must have these values where they are stated."""


_VIT = _Kind("vit_base_patch16_224")
_CLIP = _Kind("vit_base_patch16_clip_224", eps=1e-5, activation="quick_gelu")
_SIGLIP = _Kind("vit_base_patch16_siglip_gap_224", eps=1e-6, activation="gelu_pytorch_tanh")
_SAM = _Kind("samvit_base_patch16", None, eps=1e-6, takes_activation=False)
_BEIT = _Kind("beit_base_patch16_224", None, takes_activation=False)
_KINDS = {
    "vit": _VIT,
    "vit_mae": _VIT,
    "vit_msn": replace(_VIT, eps=1e-6),
    "deit": _VIT,
    "ijepa": _VIT,
    "dinov2": _Kind("vit_base_patch14_dinov2", eps=1e-6),
    "dinov2_with_registers": _Kind("vit_base_patch14_reg4_dinov2", "antialiased", eps=1e-6),
    "dinov3_vit": _Kind(
        "vit_base_patch16_dinov3_qkvb", None, 6, 1e-5, takes_activation=False, must={"rope_theta": 100.0}
    ),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "beit": _BEIT,
    "data2vec-vision": _BEIT,
    "sam": _SAM,
    "sam_vision_model": _SAM,
}


def is_known_kind(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a kind of model that can be translated."""
    return str(config.get("model_type")) in _KINDS


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
    heads = told.get("num_attention_heads", kind.heads)
    args: dict[str, Json] = {"num_heads": _number(heads, "num_attention_heads", where)}
    args["eps"] = epsilon(told.get("layer_norm_eps", kind.eps))
    activation = _activation(told, kind, where)
    if activation is not None:
        args["act_layer"] = activation
    edge = told.get("image_size")
    return {
        **({"image_size": edge} if type(edge) is int and edge > 0 else {}),  # a preprocessor has the last word
        "architecture": kind.architecture,
        "args": args,
        "positions": kind.positions,
        "patch_size": None,
        "depth": None,
    }


def epsilon(value: Any) -> float:
    """Return the epsilon of a normalisation; ValueError where it is none."""
    found = float(value)
    if not 0 <= found < 1:  # nor NaN
        raise ValueError(f"epsilon {value!r} is not in [0, 1)")
    return found


def _number(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{where}: {name} = {value!r}: must be a whole number above 0.")
    return value


def _activation(told: Mapping[str, Any], kind: _Kind, where: str) -> str | None:
    """Return timm's name of the activation; None where it is the class's own."""
    if told.get("use_swiglu_ffn") or told.get("use_gated_mlp"):
        return None  # shapes tell a gated MLP, whose activation is SiLU
    named = str(told.get("hidden_act", kind.activation))
    found = _ACTIVATIONS.get(named)
    if found is None or (found != "gelu" and not kind.takes_activation):
        raise UsageError(f"{where}: hidden_act = {named!r}, which timm's {kind.architecture} can't have.")
    return found if kind.takes_activation else None
