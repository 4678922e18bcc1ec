"""Files in their authors' layout give the tokens that their authors' model gives.

Each is a model of `tests/support/authors.py` with random weights, saved as its authors save theirs.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch

from tests.support.authors import (
    BEIT,
    CHUNKED,
    CLIP,
    DINOV3,
    META,
    TIMM,
    Plan,
    Sam,
    clip_tokens,
    clip_weights,
    prefixed,
    smaller,
    tokens,
    weights,
)
from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.vit import load_vit

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
CLOSE = 1e-4
"""Largest difference of tokens of order 1, fp32: rounding of another order of sums."""


def pixels(size: int, channels: int = 1) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (2, channels, size, size), dtype=np.uint8)
    return torch.from_numpy(drawn)


def normalised(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    wanted = [(images[:, 0] / 255.0 - m) / s for m, s in zip(mean, std, strict=True)]
    return torch.stack(wanted, dim=1)


def settings(file: Path, heads: int = 6, architecture: str = "vit_base_patch16_224", **more: Any) -> TeacherSettings:
    args = {"num_heads": heads, **more.pop("args", {})}
    stated = {"mean": MEAN, "std": STD, "architecture": architecture, "args": args, **more}
    return TeacherSettings(weights=str(file), **stated)


def mae(w: dict[str, Any]) -> dict[str, Any]:
    return {**w, "mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 48)}


PLAIN = Plan()
HUB = Plan(META, scales=True)
HUB4 = smaller(HUB, registers=4)
ROPE = Plan(DINOV3, scales=True, registers=4, positions=False, rope=True, eps=1e-5)
SHARED = Plan(BEIT, scales=True, positions=False, bias="beit", table="shared")
NO_CLS = smaller(PLAIN, cls=False)
OTHER = {name: t + 1 for name, t in weights(NO_CLS).items()}
EVA = "vit_base_patch16_dinov3_qkvb"


def dinov3_file(w: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return weights with what DINOv3's hub keeps beside them: a mask over the keys' biases, and the periods."""
    mask = torch.ones(3 * plan.width)
    mask[plan.width : 2 * plan.width] = 0
    masks = {f"blocks.{n}.attn.qkv.bias_mask": mask for n in range(plan.depth)}
    quarter = plan.width // plan.heads // 4
    periods = (100.0 ** (torch.arange(quarter) / quarter)).to(torch.bfloat16)
    return w | masks | {"rope_embed.periods": periods, "mask_token": torch.ones(1, plan.width)}


def without_key_bias(w: dict[str, Any]) -> dict[str, Any]:
    found = dict(w)
    for name, bias in w.items():
        if name.endswith("qkv.bias"):
            found[name] = bias.clone()
            found[name][48:96] = 0
    return found


CASES: dict[str, tuple[Plan, Any, dict[str, Any]]] = {
    # name: (the authors' model, what their code saves of its weights, settings)
    "mae": (PLAIN, lambda w: {"model": mae(w)}, {}),
    "mae's training run": (
        PLAIN,
        lambda w: {"model": mae(w), "optimizer": {"state": {0: w}}, "args": argparse.Namespace(lr=1), "epoch": 4},
        {},
    ),
    "urfm": (PLAIN, lambda w: {"ema_state_dict": prefixed(mae(w), "module."), "state_dict": OTHER, "model": "x"}, {}),
    "tinyusfm": (PLAIN, lambda w: prefixed(w, "module.model."), {}),
    "mae, queries, keys and values apart": (smaller(PLAIN, packed=False), lambda w: {"model": mae(w)}, {}),
    "mae, pooled": (
        smaller(PLAIN, final_norm=False),
        lambda w: {"model": w | {"fc_norm.weight": torch.ones(48), "fc_norm.bias": torch.zeros(48)}},
        {},
    ),
    "i-jepa": (
        NO_CLS,
        lambda w: {"encoder": prefixed(OTHER, "module."), "predictor": {"x.weight": torch.ones(2)},
                   "target_encoder": prefixed(w, "module."), "opt": {"state": {}}, "epoch": 3},
        {},
    ),
    "dinov2": (HUB, lambda w: w | {"mask_token": torch.ones(1, 48)}, {}),
    "dinov2, registers": (HUB4, lambda w: w | {"mask_token": torch.ones(1, 48)}, {}),
    "dinov2, swiglu": (
        smaller(HUB, mlp="swiglu", names={**META, "fc1": "mlp.w12", "fc2": "mlp.w3"}), lambda w: w, {},
    ),
    "dinov2's training run": (
        smaller(HUB4, names=CHUNKED),
        lambda w: {"teacher": prefixed(w, "backbone.") | {"dino_head.mlp.0.weight": torch.ones(2)}, "iteration": 9},
        {},
    ),
    "dinov1's training run": (
        PLAIN,
        lambda w: {
            "student": prefixed(OTHER, "module.backbone."),
            "teacher": prefixed(w, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
        },
        {},
    ),
    "ultradino": (
        smaller(HUB4, names=CHUNKED, channels=1),
        lambda w: {"teacher": prefixed(w, "backbone.") | {"ibot_head.last_layer.weight": torch.ones(2)}},
        {"mean": (0.1842924807,), "std": (0.2187705424,)},
    ),
    "usfm": (SHARED, lambda w: w | {"mask_token": torch.ones(1, 1, 48),
             "rel_pos_bias.relative_position_index": torch.zeros(17, 17)}, {"architecture": "beit_base_patch16_224"}),
    "beit": (
        smaller(SHARED, table="each"),
        lambda w: {"model": w | {"blocks.0.attn.relative_position_index": torch.zeros(17, 17),
                                 "blocks.1.attn.relative_position_index": torch.zeros(17, 17)}},
        {"architecture": "beit_base_patch16_224"},
    ),
    "fetalclip": (
        Plan(CLIP, pre_norm=True, eps=1e-5), lambda w: w, {"architecture": "vit_base_patch16_clip_224"},
    ),
    "openai's clip": (
        Plan(CLIP, pre_norm=True, eps=1e-5, act="quick_gelu"),
        lambda w: {"state_dict": prefixed(w, "module.")},
        {"args": {"act_layer": "quick_gelu", "eps": 1e-5}},
    ),
    "biomedclip": (
        PLAIN,
        lambda w: prefixed(w, "visual.trunk.")
        | {"visual.head.proj.weight": torch.ones(2), "text.transformer.x": torch.ones(2), "logit_scale": torch.ones(1)},
        {},
    ),
}  # fmt: skip


Pair = tuple[torch.Tensor, torch.Tensor]
"""Tokens of the teacher, and of the authors' model."""


def compared(case: str, folder: Path) -> Pair:
    plan, saved, more = CASES[case]
    clip = "visual.conv1" in plan.names.values()
    w = clip_weights(plan) if clip else weights(plan)
    torch.save(saved(w), folder / "c.pth")
    teacher = load_vit(settings(folder / "c.pth", **more), plan.size, torch.device("cpu"))
    given = normalised(pixels(plan.size), more.get("mean", MEAN), more.get("std", STD))
    return teacher(pixels(plan.size)), (clip_tokens if clip else tokens)(plan, w, given)


def dinov3_plan(mlp: str) -> Plan:
    return smaller(ROPE, mlp=mlp, names={**DINOV3, "fc2": "mlp.w3"} if mlp == "gated" else DINOV3, heads=3)


def dinov3_compared(mlp: str, folder: Path) -> Pair:
    plan = dinov3_plan(mlp)
    w = weights(plan)
    torch.save(dinov3_file(w, plan), folder / "c.pth")
    teacher = load_vit(settings(folder / "c.pth", 3, EVA), plan.size, torch.device("cpu"))
    return teacher(pixels(plan.size)), tokens(plan, without_key_bias(w), normalised(pixels(plan.size), MEAN, STD))


MMDET = (("patch_embed.proj", "patch_embed.projection"), ("blocks.", "layers."), ("norm", "ln"),
         ("mlp.lin1", "ffn.layers.0.0"), ("mlp.lin2", "ffn.layers.1"))  # fmt: skip


def sam_compared(kind: str, folder: Path) -> Pair:
    sam = Sam().eval()
    w: dict[str, Any] = sam.state_dict()
    if kind == "sam":
        w = prefixed(w, "image_encoder.") | {"mask_decoder.x.weight": torch.ones(2), "prompt_encoder.y": torch.ones(2)}
    if kind == "mmdet":
        w = {name: tensor for name, tensor in w.items() if not name.startswith("neck")}
        for ours, theirs in MMDET:
            w = {name.replace(ours, theirs): tensor for name, tensor in w.items()}
        w = {"meta": {}, "state_dict": prefixed(w, "backbone.") | {"bbox_head.x.weight": torch.ones(2)}}
    torch.save(w, folder / "c.pth")
    teacher = load_vit(settings(folder / "c.pth", 6, "samvit_base_patch16"), 80, torch.device("cpu"))
    assert teacher.grid == (5, 5)
    with torch.no_grad():
        given = normalised(pixels(80), MEAN, STD)
        return teacher(pixels(80)), sam.maps(given).flatten(1, 2) if kind == "mmdet" else sam(given)


def video_compared(folder: Path) -> Pair:
    """Four equal frames through the authors' 3-D convolution, at the first place in time."""
    plan = smaller(PLAIN, packed=False)
    w = weights(plan)
    rng = torch.Generator().manual_seed(1)
    kernel, time = torch.randn(48, 3, 4, 16, 16, generator=rng) * 0.05, torch.randn(1, 8, 48, generator=rng)
    place = w["pos_embed"]
    video = {name: tensor for name, tensor in w.items() if name != "pos_embed"} | {"patch_embed.proj.weight": kernel}
    video |= {"pos_embed_class": place[:, :1], "pos_embed_spatial": place[:, 1:], "pos_embed_temporal": time}
    torch.save({"model": mae(video), "args": argparse.Namespace()}, folder / "c.pth")
    teacher = load_vit(settings(folder / "c.pth"), plan.size, torch.device("cpu"))
    given = normalised(pixels(plan.size), MEAN, STD)
    seen = torch.nn.functional.conv3d(given[:, :, None].expand(-1, -1, 4, -1, -1), kernel, stride=(4, 16, 16))
    still = {**w, "pos_embed": torch.cat([place[:, :1], place[:, 1:] + time[:, :1]], dim=1)}
    still["patch_embed.proj.weight"] = kernel.sum(dim=2)
    single = torch.nn.functional.conv2d(given, still["patch_embed.proj.weight"], stride=16)
    assert (seen[:, :, 0] - single).abs().max() < CLOSE
    return teacher(pixels(plan.size)), tokens(plan, still, given)


PAIRS: dict[str, Callable[[Path], Pair]] = {
    **{case: partial(compared, case) for case in CASES},
    "dinov3": partial(dinov3_compared, "plain"),
    "dinov3, swiglu": partial(dinov3_compared, "gated"),
    "sam, medsam": partial(sam_compared, "sam"),
    "sam's encoder alone": partial(sam_compared, "alone"),
    "ultrasam (mmdet)": partial(sam_compared, "mmdet"),
    "echofm, a still frame": video_compared,
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_file_in_its_authors_layout_gives_their_tokens(tmp_path: Path, case: str) -> None:
    found, wanted = PAIRS[case](tmp_path)
    assert wanted.std() > 0.1
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < CLOSE


def test_rotary_positions_of_another_base_are_refused(tmp_path: Path) -> None:
    plan = dinov3_plan("plain")
    torch.save(dinov3_file(weights(plan), plan) | {"rope_embed.periods": torch.ones(4)}, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match="are none of base 100"):
        load_vit(settings(tmp_path / "c.pth", 3, EVA), plan.size, torch.device("cpu"))


def test_rotary_keys_with_a_bias_are_refused(tmp_path: Path) -> None:
    plan = dinov3_plan("plain")
    w = {name: tensor for name, tensor in dinov3_file(weights(plan), plan).items() if "bias_mask" not in name}
    torch.save(w, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"blocks\.0: its keys have a bias"):
        load_vit(settings(tmp_path / "c.pth", 3, EVA), plan.size, torch.device("cpu"))


def test_what_is_added_up_in_a_file_of_half_precision_is_added_in_full(tmp_path: Path) -> None:
    held = {name: tensor.to(torch.bfloat16) for name, tensor in weights(HUB4).items()}
    torch.save(held, tmp_path / "c.pth")
    teacher = load_vit(settings(tmp_path / "c.pth"), 64, torch.device("cpu"))
    wanted = tokens(HUB4, {name: tensor.float() for name, tensor in held.items()}, normalised(pixels(64), MEAN, STD))
    assert (teacher(pixels(64)) - wanted).abs().max() < CLOSE


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "clip_model.", "model.clip."])
def test_the_other_tower_is_known_behind_any_wrapper(tmp_path: Path, wrapper: str) -> None:
    plan, _, more = CASES["openai's clip"]
    torch.save(prefixed(clip_weights(plan), wrapper), tmp_path / "c.pth")
    teacher = load_vit(settings(tmp_path / "c.pth", **more), plan.size, torch.device("cpu"))
    assert teacher.warning is not None
    assert "dropped 1 of a head, 3 of another tower" in teacher.warning


def test_patches_of_clips_or_volumes_are_refused(tmp_path: Path) -> None:
    w = {name: tensor for name, tensor in weights(PLAIN).items() if name != "pos_embed"}
    w["patch_embed.proj.weight"] = torch.ones(48, 3, 2, 16, 16)
    torch.save({"target_encoder": prefixed(w, "module.backbone.")}, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"third dimension, \[2, 16, 16\]: it learnt from clips.*vjepa2_teacher"):
        load_vit(settings(tmp_path / "c.pth"), 64, torch.device("cpu"))


def test_tables_of_relative_positions_are_not_resampled_and_their_size_is_said(tmp_path: Path) -> None:
    torch.save(weights(SHARED), tmp_path / "c.pth")
    with pytest.raises(UsageError, match=r"a grid of 4 x 4, of images of 64 pixels.*cache\.teacher\.image_size=64"):
        load_vit(settings(tmp_path / "c.pth", architecture="beit_base_patch16_224"), 96, torch.device("cpu"))


def test_what_was_taken_from_the_architecture_is_said(tmp_path: Path) -> None:
    torch.save(weights(Plan(width=192, heads=3, depth=12, size=32)), tmp_path / "c.pth")
    tiny = TeacherSettings(weights=str(tmp_path / "c.pth"), architecture="vit_tiny_patch16_224")
    warning = load_vit(tiny, 32, torch.device("cpu")).warning
    assert warning is not None
    assert warning.endswith("; 3 heads, GELU, epsilon 1e-06: as in vit_tiny_patch16_224")
    told = tiny.model_copy(update={"args": {"num_heads": 3, "act_layer": "gelu", "eps": 1e-6}})
    assert "as in" not in str(load_vit(told, 32, torch.device("cpu")).warning)


def test_every_layout_and_case_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[4] / "docs/reference/teachers.md").read_text()
    assert not [case for case in PAIRS if f"| {case} |" not in page]
    differences = re.findall(r"\| ([\d.e-]+) \| ([\d.]+) \| `tests/", page)
    assert len(differences) >= len(PAIRS)
    assert all(float(most) < 1e-4 and float(cosine) > 0.9999 for most, cosine in differences)


def test_every_key_is_loaded_dropped_with_a_reason_or_another_towers(tmp_path: Path) -> None:
    plan, saved, _ = CASES["biomedclip"]
    w = weights(plan)
    torch.save(saved(w), tmp_path / "c.pth")
    teacher = load_vit(settings(tmp_path / "c.pth"), plan.size, torch.device("cpu"))
    assert teacher.warning is not None
    assert f"{len(w)} tensors loaded; dropped 1 of a head, 2 of another tower" in teacher.warning
    torch.save(saved(w) | {"visual.trunk.new.weight": torch.ones(1), "odd": torch.ones(1)}, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"2 unexpected: new\.weight, outside visual\.trunk\. odd"):
        load_vit(settings(tmp_path / "c.pth"), plan.size, torch.device("cpu"))


def test_a_layout_and_what_it_was_built_with_are_part_of_the_identity(tmp_path: Path) -> None:
    torch.save(weights(HUB4), tmp_path / "c.pth")
    identity = load_vit(settings(tmp_path / "c.pth"), 64, torch.device("cpu")).identity
    assert identity["layout"] == "DINOv2/1"
    assert identity["model_args"] == {
        "img_size": 64, "embed_dim": 48, "depth": 2, "patch_size": 16, "mlp_ratio": 4, "class_token": True,
        "reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5, "num_heads": 6,
    }  # fmt: skip


def test_what_no_file_of_a_kind_tells_is_asked_for(tmp_path: Path) -> None:
    torch.save(clip_weights(CASES["fetalclip"][0]), tmp_path / "c.pth")
    unsaid = TeacherSettings(weights=str(tmp_path / "c.pth"), args={"num_heads": 6})
    asked = r"mean, std, activation no file tells.*--set 'cache\.teacher\.mean.*args\.act_layer=gelu"
    with pytest.raises(UsageError, match=asked):
        load_vit(unsaid, 64, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"whose activation no file tells"):
        load_vit(settings(tmp_path / "c.pth"), 64, torch.device("cpu"))


def test_a_refusal_proposes_the_architecture_that_fits(tmp_path: Path) -> None:
    torch.save(weights(Plan(width=192, heads=3, depth=12, size=32)), tmp_path / "c.pth")
    base = TeacherSettings(weights=str(tmp_path / "c.pth"))
    fits = r"192 wide, 12 blocks.*architecture=vit_tiny_patch16_224.*can't be seen.*kind: tinyusfm \(--teacher NAME="
    with pytest.raises(TeacherError, match=fits):
        load_vit(base, 32, torch.device("cpu"))
    torch.save({"encoder": OTHER, "target_encoder": weights(PLAIN)}, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"Took target_encoder; beside it lie encoder .*cache\.teacher\.key"):
        load_vit(base, 64, torch.device("cpu"))
    torch.save(weights(Plan(META, scales=True, registers=4, size=32)), tmp_path / "d.pth")
    with pytest.raises(TeacherError, match=r"48 wide, 2 blocks.*cache\.teacher\.args\.num_heads=N"):
        load_vit(base.model_copy(update={"weights": str(tmp_path / "d.pth")}), 32, torch.device("cpu"))
    torch.save(weights(PLAIN) | {"odd.weight": torch.ones(1)}, tmp_path / "f.pth")
    with pytest.raises(TeacherError, match=r"heads are stated.*own timm model as cache\.teacher\.architecture"):
        load_vit(settings(tmp_path / "f.pth"), 64, torch.device("cpu"))
    torch.save(weights(SHARED), tmp_path / "e.pth")
    with pytest.raises(TeacherError, match=r"not of vit_base_patch16_224's kind.*architecture=beit_base_patch16_224"):
        load_vit(settings(tmp_path / "e.pth"), 64, torch.device("cpu"))


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_a_refusal_proposes_models_of_other_kinds_too(tmp_path: Path, name: str) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / "c.pth")
    base = TeacherSettings(weights=str(tmp_path / "c.pth"))
    with pytest.raises(TeacherError, match=f"are those of --set cache.teacher.architecture={name}"):
        load_vit(base, 224, torch.device("cpu"))


@pytest.mark.parametrize("how", ["plain", "offset", "antialiased"])
def test_positions_are_resampled_the_stated_way(tmp_path: Path, how: Any) -> None:
    w = weights(PLAIN)  # a grid of 4 x 4
    torch.save(w, tmp_path / "c.pth")
    teacher = load_vit(settings(tmp_path / "c.pth", positions=how), 96, torch.device("cpu"))
    maps = w["pos_embed"][:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    if how == "offset":  # DINOv2's hub: the scale is (patches + 0.1) / patches that were learnt
        fitted = torch.nn.functional.interpolate(maps, scale_factor=(6.1 / 4, 6.1 / 4), mode="bicubic")
    else:
        fitted = torch.nn.functional.interpolate(maps, size=(6, 6), mode="bicubic", antialias=how == "antialiased")
    flat = {**w, "pos_embed": torch.cat([w["pos_embed"][:, :1], fitted.flatten(2).transpose(1, 2)], dim=1)}
    wanted = tokens(smaller(PLAIN, size=96), flat, normalised(pixels(96), MEAN, STD))
    assert (teacher(pixels(96)) - wanted).abs().max() < CLOSE
    assert teacher.identity["positions"] == how


def test_a_wrong_number_of_heads_gives_other_tokens(tmp_path: Path) -> None:
    torch.save(weights(PLAIN), tmp_path / "c.pth")
    right, wrong = (load_vit(settings(tmp_path / "c.pth", h), 64, torch.device("cpu")) for h in (6, 3))
    assert right.identity["weights"] == wrong.identity["weights"]
    assert right.identity != wrong.identity
    assert (right(pixels(64)) - wrong(pixels(64))).abs().max() > 0.1


def test_names_of_timm_are_still_no_layout(tmp_path: Path) -> None:
    assert TIMM["patch"] == "patch_embed.proj"
    torch.save(weights(PLAIN), tmp_path / "c.pth")
    assert "layout" not in load_vit(settings(tmp_path / "c.pth"), 64, torch.device("cpu")).identity
