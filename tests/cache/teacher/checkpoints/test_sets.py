"""A file's sets of weights are all listed, the average is taken before what it averages, and the rest is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.weights import read_weights

if TYPE_CHECKING:
    from pathlib import Path

RIGHT, OTHER = {"norm.weight": torch.ones(3)}, {"norm.weight": torch.zeros(3)}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "c.pth")
    return tmp_path / "c.pth"


AVERAGES = {
    name: ({"state_dict": OTHER, name: RIGHT}, name)
    for name in ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "teacher", "momentum_encoder",
                 "modelEMA", "modelEma", "EMAModel", "ema-model", "teacherModel", "shadow", "polyak", "slow_model")
}  # fmt: skip
FILES: dict[str, tuple[Any, str]] = {
    **AVERAGES,
    "i-jepa": ({"encoder": OTHER, "predictor": OTHER, "target_encoder": RIGHT, "opt": {"state": {}}}, "target_encoder"),
    "dino": ({"student": OTHER, "teacher": RIGHT, "optimizer": {"state": {0: OTHER}}, "epoch": 3}, "teacher"),
    "average within": ({"model": {"encoder": OTHER, "target_encoder": RIGHT}}, "model/target_encoder"),
    "lightning": ({"state_dict": {**under("student", OTHER), **under("teacher", RIGHT)}}, "state_dict/teacher"),
    "one of an unknown name": ({"net_G": RIGHT, "epoch": 1}, "net_G"),
    "only target_encoder": ({"target_encoder": RIGHT}, "target_encoder"),
    "only weights": ({"weights": RIGHT}, "weights"),
    "tensors beside": ({"model": RIGHT, "step": torch.tensor(3)}, "model"),
    "a decoder before it": ({"decoder": OTHER, "network": RIGHT}, "network"),
    "behind a wrapper": ({"state_dict": {**under("model.student", OTHER), **under("model.teacher", RIGHT)}},
                         "state_dict/teacher"),
    "lightly's dino": (
        {"state_dict": {**under("student_backbone", OTHER), **under("teacher_backbone", RIGHT),
                        **under("teacher_head", OTHER), "criterion.center": torch.zeros(3)}},
        "state_dict/teacher_backbone",
    ),
    "lightly's moco": (
        {"state_dict": {**under("backbone", OTHER), **under("backbone_momentum", RIGHT),
                        **under("projection_head_momentum", OTHER)}},
        "state_dict/backbone_momentum",
    ),
    "moco": ({"state_dict": {**under("module.encoder_q", OTHER), **under("module.encoder_k", RIGHT),
                             "module.queue": torch.zeros(3)}}, "state_dict/encoder_k"),
    "moco v3": ({**under("module.base_encoder", OTHER), **under("module.momentum_encoder", RIGHT)}, "momentum_encoder"),
    "byol": ({**under("online_network", OTHER), **under("target_network", RIGHT)}, "target_network"),
    "flat modelEMA": ({**under("model", OTHER), **under("modelEMA", RIGHT)}, "modelEMA"),
    "flat model_ema": ({**under("model", OTHER), **under("model_ema.module", RIGHT)}, "model_ema"),
    "lightning's callback": (
        {"state_dict": OTHER, "callbacks": {"EMA": {"ema_state_dict": RIGHT}}, "optimizer_states": [{"state": {}}]},
        "callbacks/EMA/ema_state_dict",
    ),
    "in a tuple": ((RIGHT, 3), "0"),
    "in a list of one": ({"models": [RIGHT]}, "models/0"),
    "an ema of one number": ({"model": dict.fromkeys("abcde", RIGHT["norm.weight"]) | RIGHT,
                              "ema": {"decay": torch.zeros(3)}}, "model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_average_is_taken_before_what_it_averages(tmp_path: Path, kind: str) -> None:
    content, name = FILES[kind]
    weights = read_weights(saved(tmp_path, content))
    assert weights.name == name
    assert all(bool((t == 1).all()) for t in weights.tensors.values())


def test_what_was_taken_and_what_lies_beside_it_is_said(tmp_path: Path) -> None:
    content, _ = FILES["i-jepa"]
    weights = read_weights(saved(tmp_path, content))
    assert weights.beside == {"encoder": 1, "predictor": 1}
    assert "took target_encoder; beside it lie encoder (1), predictor (1) (cache.teacher.key" in weights.summary()
    assert read_weights(saved(tmp_path, {"model": RIGHT})).summary() == ""


def test_a_key_chooses_among_them_and_is_refused_with_what_there_is(tmp_path: Path) -> None:
    file = saved(tmp_path, FILES["i-jepa"][0])
    assert read_weights(file, "encoder").hash == read_weights(file, "predictor").hash != read_weights(file).hash
    with pytest.raises(UsageError, match=r"cache\.teacher\.key=x: .*There are: encoder \(1 tensors\), predictor"):
        read_weights(file, "x")
    top = saved(tmp_path, {**RIGHT, "ema": OTHER})
    assert bool(read_weights(top, "top").tensors["norm.weight"].all())


def test_several_sets_of_unknown_names_are_never_guessed_between(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"several sets of weights: a \(1 tensors\), b .* cache\.teacher\.key=NAME"):
        read_weights(saved(tmp_path, {"a": RIGHT, "b": OTHER}))


@pytest.mark.parametrize(
    "content",
    [
        {"image_encoder": RIGHT, "text_encoder": OTHER},
        {"net_G": {"model": RIGHT}, "net_D": {"model": OTHER}},
        {"models": [RIGHT, OTHER]},
        {"teacher_a": RIGHT, "teacher_b": OTHER},
    ],
)
def test_nor_are_several_that_are_known_equally_well(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UsageError, match=r"several sets of weights: .* cache\.teacher\.key=NAME"):
        read_weights(saved(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        {"ema": {"decay": 0.9, "num_updates": 3, "shadow_params": [torch.ones(3)], "collected_params": None}},
        {"ema_params": (torch.ones(3),)},
        {"optimizer_states": [{"state": {}, "ema": (torch.ones(3),)}]},
    ],
)
def test_an_average_that_is_a_list_without_names_is_said_and_never_passed_over(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path, {"state_dict": OTHER, **content})
    with pytest.raises(UsageError, match=r"average of state_dict as a list .* cache\.teacher\.key=state_dict\."):
        read_weights(path)
    assert read_weights(path, "state_dict").tensors["norm.weight"].tolist() == [0, 0, 0]


def test_a_small_file_of_dicts_within_dicts_without_end_is_refused(tmp_path: Path) -> None:
    many: Any = {}
    for _ in range(4):
        many = {str(key): many for key in range(60)}  # 13 million paths of 240 keys
    with pytest.raises(TeacherError, match="more than 100,000 dicts and lists"):
        read_weights(saved(tmp_path, {"model": RIGHT, "many": many}))
    circle: dict[str, Any] = {"model": RIGHT}
    circle["again"] = circle
    assert read_weights(saved(tmp_path, circle), "model").hash == read_weights(saved(tmp_path, {"model": RIGHT})).hash


def test_the_sets_that_were_not_taken_have_no_part_in_the_identity(tmp_path: Path) -> None:
    alone = read_weights(saved(tmp_path, {"teacher": RIGHT})).hash
    assert read_weights(saved(tmp_path, {"teacher": RIGHT, "student": OTHER})).hash == alone


def test_shards_are_joined_by_their_index_and_a_lost_one_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    assert sorted(read_weights(index).tensors) == ["a", "b"]
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "c": "m-1.safetensors"}}))
    with pytest.raises(TeacherError, match=r"lack 1 of its tensors, c among them"):
        read_weights(index)
    for name in ("m-3.safetensors", "../m-1.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(TeacherError, match=r"which is no file beside it"):
            read_weights(index)
    index.write_text("{}")
    with pytest.raises(TeacherError, match="lists no shards"):
        read_weights(index)
