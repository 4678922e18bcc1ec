"""A finished encoder reaches a hub whole, with a card that says what it is; the hub's refusals are said plainly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from tests.support.files.damage import flip
from tests.support.processes.hub import hub_on_loopback
from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher
from usjepa.train.cli import main
from usjepa.train.record.export import EncoderConfig, export_encoder
from usjepa.train.record.folder import BESIDE
from usjepa.train.record.front_matter import FrontMatter

if TYPE_CHECKING:
    from pathlib import Path

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "in_chans": 3}
PUBLISHED = {"README.md", "config.json", "curve.png", "model.safetensors", "recipe.json"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in BESIDE:
        (folder / name).write_text(name)
    (folder / "README.md").write_text(FrontMatter(datasets=("camus",)).to_text() + "# Ultrasound encoder\n")
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS)
    export_encoder(model, EncoderConfig("vit_tiny_patch16_224", ARGS, (0.5,) * 3, (0.25,) * 3, {}), folder, BESIDE)
    return folder


def push(*words: object) -> Result:
    return CliRunner().invoke(main, ["push", *map(str, words)])


def metadata(card: str) -> Any:
    return YAML(typ="safe").load(card.split("---\n")[1])


def pooled(model: Any) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.eval()(images)
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def test_a_dry_run_writes_what_timm_transformers_and_usjepa_load_with_equal_features(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    out = tmp_path / "out"
    done = push(run, "org/name", "--license", "cc-by-nc-4.0", "--base-model", "a/b", "--dry-run", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == PUBLISHED
    wanted = pooled(timm.create_model(f"local-dir:{run}", pretrained=True))
    assert torch.equal(pooled(timm.create_model(f"local-dir:{out}", pretrained=True)), wanted)
    wrapped = transformers.AutoModel.from_pretrained(out)
    torch.testing.assert_close(pooled(wrapped), wanted, rtol=0, atol=1e-6)
    teachers = [load_teacher(resolve_teacher(str(folder), None), 32, "cpu") for folder in (run, out)]
    assert teachers[0].identity == teachers[1].identity


def test_the_card_names_licence_base_model_datasets_and_keeps_what_was_written_below(run: Path, tmp_path: Path) -> None:
    with (run / "README.md").open("a") as card:
        card.write("edited by hand\n")
    words = ("--license", "apache-2.0", "--base-model", "a/b", "--dataset", "camus", "--dataset", "busi")
    assert push(run, "org/name", *words, "--dry-run", tmp_path / "out").exit_code == 0
    text = (tmp_path / "out/README.md").read_text()
    assert metadata(text) == {
        "license": "apache-2.0",
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "base_model": ["a/b"],
        "datasets": ["camus", "busi"],
        "tags": ["ultrasound", "self-supervised", "jepa"],
    }
    assert text.count("---\n") == 2
    assert text.endswith("edited by hand\n")


def test_a_push_makes_the_repository_and_uploads_the_files_of_a_dry_run(run: Path, tmp_path: Path) -> None:
    words = (run, "org/name", "--license", "mit", "--private")
    push(*words, "--dry-run", tmp_path / "out")
    with hub_on_loopback() as hub:
        done = push(*words)
    assert done.exit_code == 0, done.output
    assert hub.made[0]["name"] == "name"
    assert (hub.made[0].get("private"), hub.made[0].get("visibility")) in {(True, None), (None, "private")}
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "/org/name" in done.output.splitlines()[-1]


@pytest.mark.parametrize(("status", "word"), [(401, "hf auth login"), (403, "Does your token allow"), (404, "refuses")])
def test_a_hub_that_refuses_is_quoted_with_what_to_do(run: Path, status: int, word: str) -> None:
    with hub_on_loopback() as hub:
        hub.status = status
        done = push(run, "org/name", "--license", "mit")
    assert done.exit_code == UsageError.exit_code
    assert word in done.output
    assert "Traceback" not in done.output


def test_a_hub_that_is_not_there_is_said_with_the_way_round(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = push(run, "org/name", "--license", "mit")
    assert done.exit_code == 1
    assert "--dry-run" in done.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("name", "--license", "mit"), "ORG/NAME"),
        (("org/name", "--license", "MIT License"), "apache-2.0"),
        (("org/name", "--license", "mit", "--base-model", "dinov2"), "--base-model dinov2"),
        (("org/name",), "--license"),
    ],
)
def test_names_that_no_hub_takes_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    done = push(run, *words, "--dry-run", tmp_path / "out")
    assert done.exit_code == 2
    assert told in done.output
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_unfinished_or_damaged_is_not_published(run: Path, tmp_path: Path) -> None:
    flip(run / "model.safetensors", -1)
    damaged = push(run, "org/name", "--license", "mit", "--dry-run", tmp_path / "out")
    assert "model.safetensors" in damaged.output
    assert damaged.exit_code == 3
    (run / "config.json").unlink()
    unfinished = push(run, "org/name", "--license", "mit", "--dry-run", tmp_path / "out")
    assert unfinished.exit_code == 2
    assert "let it finish" in unfinished.output


def test_nothing_is_written_over_another_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    done = push(run, "org/name", "--license", "mit", "--dry-run", tmp_path / "out")
    assert done.exit_code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_encoder_that_version_0_1_named_otherwise_is_read_and_published_under_the_new_name(
    run: Path, tmp_path: Path
) -> None:
    (run / "model.safetensors").rename(run / "encoder.safetensors")
    config = json.loads((run / "config.json").read_text())
    del config["files"], config["digest"]
    (run / "config.json").write_text(json.dumps(config))
    before = load_teacher(resolve_teacher(str(run), None), 32, "cpu").identity
    assert push(run, "org/name", "--license", "mit", "--dry-run", tmp_path / "out").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == PUBLISHED
    assert load_teacher(resolve_teacher(str(tmp_path / "out"), None), 32, "cpu").identity == before
