"""Folders of transformers, timm and open_clip say what their weights alone can't; a hub's are found in its cache."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.support.authors import CLIP, Plan, clip_tokens, clip_weights, tokens, weights
from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
    from pathlib import Path

HF = {
    "patch": "embeddings.patch_embeddings.projection", "cls": "embeddings.cls_token",
    "pos": "embeddings.position_embeddings", "block": "encoder.layer.{}", "norm1": "layernorm_before",
    "q": "attention.attention.query", "k": "attention.attention.key", "v": "attention.attention.value",
    "proj": "attention.output.dense", "norm2": "layernorm_after", "fc1": "intermediate.dense", "fc2": "output.dense",
    "norm": "layernorm", "ls1": "layer_scale1.lambda1", "ls2": "layer_scale2.lambda1", "reg": "reg", "pre": "pre",
    "gate": "gate", "up": "up", "qkv": "qkv", "table": "table",
}  # fmt: skip
VIT = Plan(HF, packed=False, eps=1e-3)
CONFIG = {"model_type": "vit", "num_attention_heads": 6, "layer_norm_eps": 1e-3, "hidden_act": "gelu"}
PREPROCESSOR = {
    "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 64, "width": 64},
    "image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.25, 0.3],
}  # fmt: skip


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(mean: list[float], std: list[float]) -> torch.Tensor:
    return torch.cat([(images() / 255.0 - m) / s for m, s in zip(mean, std, strict=True)], dim=1)


def write(folder: Path, tensors: dict[str, torch.Tensor], **files: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def a_folder(folder: Path, config: dict[str, Any] = CONFIG, preprocessor: dict[str, Any] = PREPROCESSOR) -> Path:
    w = {f"vit.{name}": tensor for name, tensor in weights(VIT).items()} | {"classifier.weight": torch.ones(2, 48)}
    return write(folder, w, config=config, preprocessor_config=preprocessor)


def test_a_folder_of_transformers_gives_its_models_tokens(tmp_path: Path) -> None:
    teacher = load_teacher(resolve_teacher(str(a_folder(tmp_path / "f")), TeacherSettings()), 64, "cpu")
    wanted = tokens(VIT, weights(VIT), normalised(PREPROCESSOR["image_mean"], PREPROCESSOR["image_std"]))  # type: ignore[arg-type]
    assert (teacher(images()) - wanted).abs().max() < 2e-5
    assert teacher.identity["model_args"]["eps"] == 1e-3
    assert teacher.identity["positions"] == "plain"


@pytest.mark.parametrize(
    ("config", "preprocessor", "told"),
    [
        ({"model_type": "swin"}, {}, r"model_type 'swin' is none that can be translated"),
        ({"hidden_act": "mish"}, {}, r"hidden_act = 'mish', which timm's vit_base_patch16_224 can't have"),
        ({"num_attention_heads": "many"}, {}, r"num_attention_heads = 'many'"),
        ({"model_type": "dinov3_vit", "rope_theta": 10.0}, {}, r"rope_theta = 10\.0, and timm's model has 100"),
        ({}, {"size": {"height": 64, "width": 32}}, r"64 x 32: a teacher's input must be square"),
        (
            {},
            {"do_rescale": False},
            r"do_rescale = false, so whether .* State those .*teacher\.mean",
        ),
        ({}, {"rescale_factor": 1.0}, r"rescale_factor = 1\.0: a teacher is given pixels over 255"),
    ],
)
def test_what_a_configuration_says_and_timm_can_not_do_is_refused(
    tmp_path: Path, config: dict[str, Any], preprocessor: dict[str, Any], told: str
) -> None:
    folder = a_folder(tmp_path / "f", CONFIG | config, PREPROCESSOR | preprocessor)
    with pytest.raises(UsageError, match=told):
        resolve_teacher(str(folder), None)


def test_a_folder_that_says_nothing_of_its_normalisation_is_refused_naming_the_fields(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "f")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"mean and std\. State them: --set 'cache\.teacher\.mean"):
        resolve_teacher(str(folder), None)
    stated = TeacherSettings(mean=(0.5,) * 3, std=(0.5,) * 3).with_stated(frozenset({"mean", "std"}))
    assert resolve_teacher(str(folder), stated).mean == (0.5,) * 3


@pytest.mark.parametrize("text", ["{", "[]", '{"pretrained_cfg": 3}', '{"pretrained_cfg": {"input_size": [3, 8, 8]}}'])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    folder = a_folder(tmp_path / "f")
    (folder / "config.json").write_text(text)
    with pytest.raises(TeacherError, match=str(folder)):
        resolve_teacher(str(folder), None)


@pytest.mark.parametrize(
    ("field", "value"), [("head_width", 0), ("width", 1e400), ("norm_kwargs", {"eps": -1}), ("norm_kwargs", 3)]
)
def test_numbers_of_open_clip_that_can_not_be_are_named_with_their_folder(
    tmp_path: Path, field: str, value: Any
) -> None:
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, field: value}
    preprocess = {"mean": [0.3] * 3, "std": [0.2] * 3}
    write(tmp_path, {}, open_clip_config={"model_cfg": {"vision_cfg": vision}, "preprocess_cfg": preprocess})
    with pytest.raises(TeacherError, match=str(tmp_path)):
        resolve_teacher(str(tmp_path), None)


def test_an_epsilon_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "f", CONFIG | {"layer_norm_eps": float("nan")})
    with pytest.raises(TeacherError, match=r"epsilon nan is not in \[0, 1\)"):
        resolve_teacher(str(folder), None)


def a_timm_folder(folder: Path) -> Path:
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 3}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "pretrained_cfg": cfg,
        "model_args": {"depth": 1},
    }
    return write(folder, model.state_dict(), config=config)


def compared_timm(tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and those of timm's own model."""
    teacher: Any = load_teacher(resolve_teacher(str(a_timm_folder(tmp_path / "f")), None), 64, "cpu")
    assert teacher.identity["input"]["mean"] == [0.5] * 3
    torch.manual_seed(1)
    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3).eval()
    with torch.no_grad():
        wanted = model.forward_features(teacher.input(images(), "cpu"))[:, 1:]
    return teacher(images()), wanted


def test_a_folder_of_timm_gives_its_models_tokens(tmp_path: Path) -> None:
    assert torch.equal(*compared_timm(tmp_path))


def compared_open_clip(tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and those of a model that is written from CLIP's paper."""
    plan = Plan(CLIP, width=64, heads=1, pre_norm=True, eps=1e-5, act="quick_gelu")
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
    preprocess = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.25, 0.3]}
    config = {"model_cfg": {"quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": preprocess}
    folder = write(tmp_path / "f", clip_weights(plan), open_clip_config=config)
    teacher = load_teacher(resolve_teacher(str(folder), None), 64, "cpu")
    return teacher(images()), clip_tokens(plan, clip_weights(plan), normalised(preprocess["mean"], preprocess["std"]))


def test_a_file_with_its_configuration_beside_it_is_as_its_folder(tmp_path: Path) -> None:
    told = resolve_teacher(str(a_folder(tmp_path / "f")), TeacherSettings())
    assert resolve_teacher(told.weights or "", TeacherSettings()) == told
    stated = TeacherSettings(mean=(0.1,) * 3).with_stated(frozenset({"mean"}))
    assert resolve_teacher(told.weights or "", stated).mean == (0.1,) * 3
    other = tmp_path / "f" / "mine.safetensors"
    other.write_bytes((tmp_path / "f" / "model.safetensors").read_bytes())
    assert resolve_teacher(str(other), TeacherSettings()) == TeacherSettings(weights=str(other))  # whose is not known
    (tmp_path / "f" / "config.json").write_text("{")
    with pytest.raises(TeacherError, match=r"config\.json: not readable as JSON"):
        resolve_teacher(told.weights or "", None)


def test_a_configuration_of_something_else_beside_a_file_says_nothing_of_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", weights(VIT), config={"model_type": "swin"})
    file = str(folder / "model.safetensors")
    assert resolve_teacher(file, None) == TeacherSettings(weights=file)


def test_pickled_shards_are_found_by_their_index(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "f")
    whole = load_teacher(resolve_teacher(str(folder), None), 64, "cpu")(images())
    (folder / "model.safetensors").unlink()
    held = {f"vit.{name}": tensor for name, tensor in weights(VIT).items()}
    places = {name: f"pytorch_model-{number % 2 + 1}.bin" for number, name in enumerate(held)}
    for file in set(places.values()):
        torch.save({name: held[name] for name in held if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(load_teacher(resolve_teacher(str(folder), None), 64, "cpu")(images()), whole)


def test_a_preprocessor_that_pads_says_the_size_of_the_input(tmp_path: Path) -> None:
    padded = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}, "do_pad": True}
    folder = a_folder(tmp_path / "f", preprocessor=PREPROCESSOR | padded)
    assert resolve_teacher(str(folder), None).image_size == 64
    del padded["pad_size"]
    assert resolve_teacher(str(a_folder(tmp_path / "g", preprocessor=PREPROCESSOR | padded)), None).image_size == 64


def test_a_processor_of_images_and_texts_says_the_input_too(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "f")
    wanted = resolve_teacher(str(folder), None)
    (folder / "preprocessor_config.json").unlink()
    whole = {"image_processor": PREPROCESSOR, "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    assert resolve_teacher(str(folder), None) == wanted


def test_the_size_that_a_model_learnt_at_counts_where_no_preprocessor_states_one(tmp_path: Path) -> None:
    unsized = {name: value for name, value in PREPROCESSOR.items() if name != "size"}
    folder = a_folder(tmp_path / "f", CONFIG | {"image_size": 48}, unsized)
    assert resolve_teacher(str(folder), TeacherSettings(image_size=224)).image_size == 48
    sized = a_folder(tmp_path / "g", CONFIG | {"image_size": 48})
    assert resolve_teacher(str(sized), None).image_size == 64


def test_a_folder_of_open_clip_gives_its_models_tokens(tmp_path: Path) -> None:
    found, wanted = compared_open_clip(tmp_path)
    assert (found - wanted).abs().max() < 2e-5


def in_cache(cache: Path, repository: str, make: Any) -> None:
    """Lay a folder where huggingface_hub keeps a repository that it fetched."""
    root = cache / f"models--{repository.replace('/', '--')}"
    make(root / "snapshots" / ("a" * 40))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_the_hub_is_found_in_its_local_cache(offline: Path) -> None:
    in_cache(offline, "org/vit", a_folder)
    in_cache(offline, "timm/vit_tiny_patch16_224.augreg_in21k", a_timm_folder)
    hub = load_teacher(resolve_teacher("hf-hub:org/vit", None), 64, "cpu")
    assert hub.identity["model_args"]["num_heads"] == 6
    named = resolve_teacher("vit_tiny_patch16_224.augreg_in21k", None)
    assert (named.architecture, named.mean) == ("vit_tiny_patch16_224", (0.5,) * 3)
    assert named.weights is not None


def test_a_model_that_neither_network_nor_cache_has_is_refused_with_a_way_out(offline: Path) -> None:
    for text in ("hf-hub:org/other", "vit_small_patch16_224.augreg_in1k"):
        with pytest.raises(UsageError, match=r"can't be fetched, and lies in no local cache .*name the folder"):
            resolve_teacher(text, None)
