"""A preset gives a published teacher's weights what no file of them tells, and lets `--set` have the last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

from tests.cache.teacher.names.test_folders import CONFIG, PREPROCESSOR, VIT, write
from tests.support.authors import BEIT, CHUNKED, Plan, prefixed, smaller, tokens, weights
from tests.support.builds import SMALL
from usjepa.cache.cli import main
from usjepa.cache.errors import UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import Recipe, load_recipe
from usjepa.cache.teacher.names.describe import preset_table
from usjepa.cache.teacher.names.presets import PRESETS
from usjepa.cache.teacher.resolve import described_teacher, load_teacher, resolve_teacher
from usjepa.cache.teacher.timm_models import build_timm
from usjepa.evaluate.encoders.named import named_encoders

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(width=48, heads=12, size=64)
"""Twelve heads, of which timm's model of any name has another number at this width."""


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def images(size: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, size, size), generator=rng, dtype=torch.uint8)


def normalised(pixels: torch.Tensor, name: str) -> torch.Tensor:
    mean, std = PRESETS[name].input
    return torch.cat([(pixels / 255.0 - m) / s for m, s in zip(mean, std, strict=True)], dim=1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_model_can_be_built_for_its_input(name: str) -> None:
    preset = PRESETS[name]
    small_enough = {"depth": 1, "embed_dim": 48} if "num_heads" in preset.args else {"depth": 1}
    with torch.device("meta"):
        model = build_timm(preset.architecture, {"img_size": preset.size, **small_enough, **preset.args})
    embed: Any = model.patch_embed
    patch = embed.proj.weight.shape[-1]
    assert preset.size % patch == 0
    assert len(preset.input[0]) == len(preset.input[1])
    assert all(0 <= mean <= 1 for mean in preset.input[0])
    assert all((preset.title, preset.paper, preset.licence, preset.where, preset.seen, preset.layout))
    assert f"| `{name}` |" in preset_table()


KINDS: dict[str, tuple[Plan, Any]] = {
    "tinyusfm": (PLAN, lambda w: prefixed(w, "module.model.")),
    "usfm": (smaller(PLAN, names=BEIT, scales=True, positions=False, bias="beit", table="shared"), lambda w: w),
    "ultradino-b": (
        smaller(PLAN, names=CHUNKED, scales=True, registers=4, channels=1),
        lambda w: {"teacher": prefixed(w, "backbone.") | {"dino_head.x.weight": torch.ones(2)}},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_preset_gives_the_authors_tokens_on_their_input(tmp_path: Path, name: str) -> None:
    plan, layout = KINDS[name]
    w = weights(plan)
    recipe = load_recipe("us-jepa", ["cache.teacher.image_size=64", "cache.teacher.compute=fp32"])
    chosen = resolve_teacher(f"{name}={saved(tmp_path, layout(w))}", recipe.cache.teacher)
    teacher = load_teacher(chosen, 64, "cpu")
    assert teacher.name == name
    assert teacher.identity["input"]["mean"] == list(PRESETS[name].input[0])
    wanted = tokens(plan, w, normalised(images(64), name))
    assert (teacher(images(64)) - wanted).abs().max() < 1e-4
    # The identity describes the teacher whole: evaluation loads it again from there.
    again = load_teacher(described_teacher(teacher.identity, None, chosen.weights), 64, "cpu")
    assert again.identity == teacher.identity


def test_what_is_set_has_the_last_word_and_the_recipe_has_not(tmp_path: Path) -> None:
    file = saved(tmp_path, weights(PLAN))
    mine = ["cache.teacher.name=mine", "cache.teacher.mean=[0.1, 0.2, 0.3]", "cache.teacher.args.eps=1e-5"]
    chosen = resolve_teacher(f"tinyusfm={file}", load_recipe("us-jepa", mine).cache.teacher)
    assert (chosen.name, chosen.mean) == ("mine", (0.1, 0.2, 0.3))
    assert chosen.args == {"num_heads": 12, "eps": 1e-5}
    assert (chosen.architecture, chosen.batch_size) == ("vit_tiny_patch16_224", 128)
    assert resolve_teacher(f"tinyusfm={file}", load_recipe("us-jepa").cache.teacher).name == "tinyusfm"


def test_a_build_with_a_preset_names_the_layer_by_it_and_resumes(tmp_path: Path) -> None:
    plan = smaller(PLAN, size=32)
    file = saved(tmp_path, weights(plan))
    sets = [part for one in (*SMALL, "cache.teacher.image_size=32") for part in ("--set", one)]
    call = ["build", str(tmp_path / "s.zarr"), "--pipeline", "demo", "--teacher", f"tinyusfm={file}", *sets]
    for _ in range(2):
        done = CliRunner().invoke(main, call)
        assert done.exit_code == 0, done.output
    assert "latents/tinyusfm" in open_store(str(tmp_path / "s.zarr")).layers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("usfm", r"a preset without weights. Write --teacher usfm=FILE; they are had from github"),
        ("usfn=w.pth", r"no such preset. Did you mean usfm"),
        ("usfm=none.pth", r"no such file. Its weights are had from"),
        ("vit_base_patch16_224", r"names an architecture, not weights"),
        ("hf-hub:usfm", r"write it as hf-hub:ORG/NAME"),
        ("vit_tiny_patch16_224.nobody", r"timm has no such weights. Of vit_tiny_patch16_224 there are: .*augreg"),
    ],
)
def test_a_name_without_weights_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        resolve_teacher(text, None)


def test_evaluation_takes_the_same_presets(tmp_path: Path) -> None:
    plan = smaller(PLAN, size=224)
    w = weights(plan)
    (one,) = named_encoders((f"tinyusfm={saved(tmp_path, w)}",), Recipe(), "cpu")
    assert (one.key, one.title) == ("tinyusfm", "tinyusfm (vit_tiny_patch16_224)")
    built = resolve_teacher(f"tinyusfm={tmp_path / 'w.pth'}", load_recipe("us-jepa").cache.teacher)
    teacher = load_teacher(built.model_copy(update={"compute": "fp32"}), 224, "cpu")
    for field in ("weights", "model_args", "architecture"):
        assert one.encoder.identity["teacher"][field] == teacher.identity[field]
    assert one.encoder.identity["teacher"]["input"]["mean"] == teacher.identity["input"]["mean"]


def test_evaluation_reads_the_configuration_beside_a_file(tmp_path: Path) -> None:
    w = {f"vit.{name}": tensor for name, tensor in weights(VIT).items()}
    write(tmp_path, w, config=CONFIG, preprocessor_config=PREPROCESSOR)
    file = str(tmp_path / "model.safetensors")
    (one,) = named_encoders((file,), Recipe(), "cpu")
    assert one.encoder.identity["teacher"]["input"]["mean"] == PREPROCESSOR["image_mean"]
    assert one.encoder.identity["teacher"]["model_args"]["num_heads"] == 6


def test_the_command_lists_presets_and_tells_all_of_one() -> None:
    listed = CliRunner().invoke(main, ["teachers"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()[1:]] == list(PRESETS)
    one = CliRunner().invoke(main, ["teachers", "usf-mae"])
    for fact in (
        "vit_base_patch16_224",
        "224 x 224, 3 channels",
        "0.485",
        "MIT",
        "MMOTU",
        "nearest",
        "--teacher usf-mae=FILE",
    ):
        assert fact in one.output
    assert CliRunner().invoke(main, ["teachers", "nobody"]).exit_code == 2
