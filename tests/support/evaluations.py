"""Evaluate a run that was made without training, with few epochs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from click.testing import CliRunner, Result

from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.evaluate.cli import main

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 32

FAST = tuple(
    word
    for value in ("seeds=2", "epochs=10", "bootstrap=200", "few_shot=[0.5]", "corruptions=[contrast]")
    for word in ("--set", f"evaluate.{value}")
)
SMALL = {"architecture": "vit_tiny_patch16_224", "patch_size": 8, "depth": 3, "channels": 3}


@dataclass(frozen=True)
class Place:
    """A finished run, made without training, and the store of its teacher's latents."""

    run: Path
    store: Path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def export_run(folder: Path, store: Path) -> None:
    """Write what usjepa-train leaves behind: a small student as it is before training, a recipe, a log."""
    from usjepa.cache.reading.store import open_store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.recipes.train import StudentSettings
    from usjepa.train.model.student import Student
    from usjepa.train.record.export import EncoderConfig, export_encoder

    settings = StudentSettings.model_validate(SMALL)
    student, opened = Student(settings, SIZE, 0), open_store(store)
    extra = {
        "identity": {
            "teacher": opened.identity["latents/tiny"] if opened.latents else {"teacher": None},
            "train": {"exclude_splits": ["test"]},
        },
        "store": {"digest": opened.digest, "generation": 1},
    }
    config = EncoderConfig(settings.architecture, student.model_args, settings.mean, settings.std, extra)
    export_encoder(student.vit, config, folder)
    recipe: dict[str, Any] = {
        "cache": {"image_size": SIZE, "rows_per_shard": 16, "teacher": {"patch_size": 8, "name": "tiny"}}
    }
    recipe["cache"]["preprocess"] = {"whole": "keep"}  # made frames fill their whole screen
    (folder / "recipe.json").write_text(Recipe.model_validate(recipe).model_dump_json())
    lines: list[dict[str, Any]] = [
        {"kind": "step", "step": step, "epoch": step // 5, "loss": 1 / (1 + step)} for step in range(10)
    ]
    lines.append({"kind": "validation", "epoch": 1, "step": 10, "loss": 0.2})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def add_latents(store: Path) -> None:
    """Ask a small random teacher about a store's pixels, as stage one does."""
    from usjepa.cache.coding.form import Form
    from usjepa.cache.reading.store import open_store
    from usjepa.cache.storage.local import LocalStorage
    from usjepa.cache.store.writer import StoreWriter
    from usjepa.cache.teacher.layers import latent_layers
    from usjepa.cache.teacher.resolve import load_teacher

    settings = TeacherSettings(name="tiny", architecture="vit_tiny_patch16_224", patch_size=8)
    teacher, opened = load_teacher(settings, SIZE, "cpu"), open_store(store)
    writer = StoreWriter(LocalStorage(store))
    writer.create_or_open(16)
    (layer,) = latent_layers(teacher, Form("fp16"), opened.layers["pixels"], 16)
    writer.add_layer(layer)
    for shard in range(writer.state.shard_count):
        numbers = writer.state.rows_of_shard(shard)
        pixels = opened.read(numbers, layers=("pixels",)).pixels
        latents = teacher(torch.from_numpy(pixels)).numpy().astype(np.float16)
        writer.write_shard(layer, shard, latents, [], {"torch": "x"})
    writer.seal()
