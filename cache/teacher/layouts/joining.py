"""Put together, split and fold tensors that timm keeps in another form.

Every function works in place on a dict of tensors that have timm's names already, as far as a new name is enough.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.teacher.checkpoints.sets import Tensors

ROPE_BASE = 100.0
"""DINOv3's; timm computes the rotary frequencies from it (`rope_temperature`)."""


def together(tensors: Tensors, parts: tuple[str, ...], whole: str) -> None:
    """Stack parts of every block's tensor in their order: `attn.q`, `attn.k`, `attn.v` become `attn.qkv`.

    Where a part has no bias, zeros stand in for it if another has one; KeyError where a weight is missing.
    """
    for block in _blocks(tensors):
        weights = [tensors.pop(f"{block}.{part}.weight") for part in parts]
        tensors[f"{block}.{whole}.weight"] = torch.cat(weights)
        biases = [tensors.pop(f"{block}.{part}.bias", None) for part in parts]
        if any(bias is not None for bias in biases):
            filled = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]
            tensors[f"{block}.{whole}.bias"] = torch.cat(filled)


def qkv(tensors: Tensors) -> None:
    """Stack queries, keys and values as timm does."""
    together(tensors, ("attn.q", "attn.k", "attn.v"), "attn.qkv")


def split_bias(tensors: Tensors, turned: bool = False) -> None:
    """Keep the biases of queries and values apart, as BEiT and EVA do, whose keys have none.

    A key's bias adds the same number to all scores of a query, which softmax takes away again: it may be left out,
    unless keys are turned by rotary positions, which make another number of it at every place; then RuntimeError.
    """
    for block in _blocks(tensors):
        bias = tensors.pop(f"{block}.attn.qkv.bias", None)
        if bias is not None:
            tensors[f"{block}.attn.q_bias"], keys, tensors[f"{block}.attn.v_bias"] = bias.chunk(3)
            if turned and bool(keys.any()):
                raise RuntimeError(f"{block}: its keys have a bias, which timm's model with rotary positions has not")


def beit_transformers(tensors: Tensors) -> None:
    """Stack queries, keys and values, whose biases stay apart."""
    qkv(tensors)
    split_bias(tensors)


def registers(tensors: Tensors) -> None:
    """Take the class token's position out of the positions: timm's models with registers have it in the token."""
    if "reg_token" in tensors:
        positions = tensors["pos_embed"]
        # In full precision, as a model adds them that has loaded weights of half precision.
        tensors["cls_token"] = tensors["cls_token"].float() + positions[:, :1].float()
        tensors["pos_embed"] = positions[:, 1:]


def dinov2(tensors: Tensors) -> None:
    """Undo the blocks' chunks (`blocks.0.11` is `blocks.11`), and move the class token's position."""
    for key in list(tensors):
        tensors[re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key)] = tensors.pop(key)
    registers(tensors)


def dinov2_transformers(tensors: Tensors) -> None:
    """Stack queries, keys and values, and move the class token's position."""
    qkv(tensors)
    registers(tensors)


def dinov3(tensors: Tensors) -> None:
    """Apply the mask of biases, keep them apart, and check that positions are the rotary ones that timm computes."""
    periods = tensors.pop("rope_embed.periods", None)
    if periods is not None:
        wanted = ROPE_BASE ** (torch.arange(len(periods)) / len(periods))
        if not torch.allclose(periods.float(), wanted, rtol=1e-2):  # kept in half precision
            raise RuntimeError(f"rope_embed.periods are none of base {ROPE_BASE:g}")
    for block in _blocks(tensors):
        mask = tensors.pop(f"{block}.attn.qkv.bias_mask", None)
        if mask is not None:
            tensors[f"{block}.attn.qkv.bias"] = torch.where(mask == 0, 0.0, tensors[f"{block}.attn.qkv.bias"])
    split_bias(tensors, turned=True)


def dinov3_transformers(tensors: Tensors) -> None:
    """Stack queries, keys and values, whose biases stay apart, and name the two layers of a gated MLP."""
    if "reg_token" in tensors and tensors["reg_token"].shape[1] == 0:
        del tensors["reg_token"]  # a model without registers has an empty tensor of them
    qkv(tensors)
    split_bias(tensors, turned=True)
    for key in [key for key in tensors if ".mlp.fc1_g." in key]:
        up = key.replace("fc1_g", "fc1")
        tensors[up.replace("fc1", "fc1_x")] = tensors.pop(up)


def class_row(tensors: Tensors) -> None:
    """Give CLIP's class token [D] and positions [T, D] the leading dimensions that timm has."""
    for name in ("cls_token", "pos_embed"):
        if name in tensors:
            tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])


def clip(tensors: Tensors) -> None:
    """Give class token and positions their leading dimensions; patches have no bias, which timm's have without a norm.

    The norm is the one before the first block; open_clip's `no_ln_pre` leaves it out.
    """
    class_row(tensors)
    if "norm_pre.weight" not in tensors:
        weight = tensors["patch_embed.proj.weight"]
        tensors.setdefault("patch_embed.proj.bias", weight.new_zeros(len(weight)))


def clip_transformers(tensors: Tensors) -> None:
    """Stack queries, keys and values, and give class token and positions their leading dimensions."""
    qkv(tensors)
    class_row(tensors)


def still_frame(tensors: Tensors) -> None:
    """Fold a video model's tubelet for one frame shown for its whole length, at the first place in time.

    The patch embedding of equal frames is that of one frame with the weights summed over time; the position of a patch
    is its place in the frame plus the first in time (EchoFM, `pos_embed_spatial` and `pos_embed_temporal`).
    """
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].float().sum(dim=2)
    space, time, first = (tensors.pop(f"pos_embed_{part}").float() for part in ("spatial", "temporal", "class"))
    tensors["pos_embed"] = torch.cat([first, space + time[:, :1]], dim=1)
    qkv(tensors)


def monai(tensors: Tensors) -> None:
    """Make a convolution of a patch embedding that is a linear layer over pixels (row, column, channel)."""
    weight = tensors["patch_embed.proj.weight"]
    if weight.ndim == 2:
        channels = next((c for c in (1, 3) if math.isqrt(weight.shape[1] // c) ** 2 * c == weight.shape[1]), 0)
        if not channels:
            raise RuntimeError(f"a patch of {weight.shape[1]} values is no square of grey or colour")
        edge = math.isqrt(weight.shape[1] // channels)
        tensors["patch_embed.proj.weight"] = weight.reshape(-1, edge, edge, channels).permute(0, 3, 1, 2)


def _blocks(tensors: Tensors) -> Iterable[str]:
    """Return the names of the blocks, `blocks.0` and so on, in order of appearance."""
    found = (re.match(r"blocks\.\d+", key) for key in list(tensors))
    return list(dict.fromkeys(match[0] for match in found if match))
