"""Load the encoders that `--encoder` names, each with its own input.

| text                     | what it is                                                                            |
|--------------------------|---------------------------------------------------------------------------------------|
| folder of a run of ours  | its exported encoder, with the input of its config.json                               |
| `FILE`                   | a checkpoint of the recipe's teacher (`cache.teacher`: architecture, mean, std), or   |
|                          | what a configuration beside it tells                                                  |
| `FILE@ARCHITECTURE`      | a checkpoint of that timm model, with ImageNet's mean and deviation, as for --teacher |
| `FILE@ARCHITECTURE.TAG`  | the same, with the input of timm's configuration of that name                         |
| `PRESET=FILE`, a folder  | what `--teacher` takes: a preset, a folder of transformers, timm or open_clip         |
| `hf-hub:ORG/NAME`        | the same from the hub, or its local cache                                             |
| `NAME`, as `resnet50`    | the timm model with random weights                                                    |
| `NAME.TAG`               | the timm model with those pretrained weights, loaded by timm (network, or its cache)  |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.exported import is_exported
from usjepa.cache.teacher.model_input import RESIZE, ModelInput
from usjepa.evaluate.encoders.models import OWN_POOLING, POOLING, ModelEncoder

if TYPE_CHECKING:
    import torch

    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.base import Encoder

RANDOM_SEED = 1_000_003
"""Of random weights; far from the seeds that people train with."""


@dataclass(frozen=True)
class Named:
    """An encoder that `--encoder` names."""

    key: str
    """Names it in `scores.json`; no path, which would be another on every machine."""
    title: str
    encoder: Encoder


def named_encoders(texts: tuple[str, ...], recipe: Recipe, device: str) -> list[Named]:
    """Return the encoders that `--encoder` names, in their order; keys that repeat are numbered.

    Raises:
        UsageError: a text names nothing there is, or timm can't load the weights.
        TeacherError: a checkpoint does not fit its architecture.
    """
    made: list[Named] = []
    for text in texts:
        one = _named(text, recipe, device)
        count = sum(other.key.split("#")[0] == one.key for other in made)
        made.append(Named(f"{one.key}#{count + 1}", f"{one.title} ({count + 1})", one.encoder) if count else one)
    return made


def _named(text: str, recipe: Recipe, device: str) -> Named:
    import timm

    path, _, architecture = text.rpartition("@")
    if is_exported(Path(text)):
        return _of_run(Path(text), device)
    if Path(text).is_dir() or "=" in text or text.startswith("hf-hub:"):
        return _as_teacher(text, recipe, device)
    if Path(text).is_file() or Path(path).is_file():
        whole = Path(text).is_file()
        return _of_file(Path(text if whole else path), "" if whole else architecture, recipe, device)
    if timm.is_model(text):
        return _of_timm(text, device)
    from usjepa.cache.teacher.timm_models import nearest_models

    raise UsageError(
        f"--encoder {text}: no such run folder or checkpoint, and timm has no such model{nearest_models(text)} Give "
        "the folder of a usjepa-train run, FILE or FILE@ARCHITECTURE, a timm name (random weights), or NAME.TAG "
        "(pretrained)."
    )


def _of_run(folder: Path, device: str) -> Named:
    from usjepa.evaluate.encoders.finished_run import open_run
    from usjepa.train.record.export import load_encoder

    run = open_run(folder)
    encoder = ModelEncoder(run.name, run.input, run.encoder, lambda: load_encoder(folder)[0], device)
    return Named(run.name, f"Run {run.name}", encoder)


def _of_file(file: Path, architecture: str, recipe: Recipe, device: str) -> Named:
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.resolve import resolve_teacher

    settings = recipe.cache.teacher or TeacherSettings()
    if architecture:
        settings = _settings_of(architecture).model_copy(update={"weights": str(file)})
    else:
        settings = resolve_teacher(str(file), settings)
    return _live(settings, file.stem, f"{file.stem} ({settings.architecture})", device)


def _as_teacher(text: str, recipe: Recipe, device: str) -> Named:
    """Return an encoder that is named as `--teacher` names a teacher."""
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.names.presets import is_preset
    from usjepa.cache.teacher.resolve import resolve_teacher

    preset, _, file = text.partition("=")
    stated = frozenset() if recipe.cache.teacher is None else recipe.cache.teacher.stated
    settings = resolve_teacher(text, (recipe.cache.teacher or TeacherSettings()).with_stated(stated - {"name"}))
    name = preset if is_preset(preset) and file else Path(text).name
    return _live(settings, name, f"{name} ({settings.architecture})", device)


def _live(settings: TeacherSettings, key: str, title: str, device: str) -> Named:
    """Return a teacher as an encoder: the size of the frames that it will see is not part of what it is."""
    from usjepa.cache.teacher.resolve import load_teacher
    from usjepa.evaluate.encoders.teachers import LiveTeacher

    sized = settings.model_copy(update={"image_size": settings.image_size or 224})
    teacher = load_teacher(sized, sized.image_size or 224, device)
    if "input" in teacher.identity:
        teacher.identity["input"] = {**teacher.identity["input"], "resize": f"{RESIZE}, where sizes differ"}
    return Named(key, title, LiveTeacher(teacher, key))


def _settings_of(architecture: str) -> TeacherSettings:
    """Return an architecture at its own size; with the rest of its input where a tag says whose weights they are.

    One architecture has weights of several normalisations: without a tag none of them is guessed, and it is given
    what `--teacher FILE` is given.
    """
    import timm

    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.timm_models import nearest_models

    known = timm.is_model(architecture) and ("." not in architecture or architecture in timm.list_pretrained())
    config = timm.get_pretrained_cfg(architecture) if known else None
    if config is None:
        raise UsageError(f"--encoder FILE@{architecture}: timm has no such model{nearest_models(architecture)}")
    wanted = _input_of(dataclasses.asdict(config))
    name = architecture.partition(".")[0]
    input_of_tag = {"mean": wanted.mean, "std": wanted.std} if name != architecture else {}
    return TeacherSettings.model_validate({"architecture": name, "image_size": wanted.size, **input_of_tag})


def _of_timm(name: str, device: str) -> Named:
    from usjepa.cache.identity import soft_versions
    from usjepa.cache.teacher.timm_models import is_vit

    architecture, _, tag = name.partition(".")
    model = _timm_model(name, bool(tag))
    wanted = _input_of(model.pretrained_cfg)
    pooled = POOLING if is_vit(model) else OWN_POOLING
    weights: dict[str, Any] = {
        "architecture": architecture,
        "weights": _hash(model) if tag else {"random": RANDOM_SEED},
        "input": wanted.to_json(),
        "versions": soft_versions(["timm"]),
    }
    encoder = ModelEncoder(name, wanted, weights, lambda: model, device, "timm", pooled)
    return Named(name, name if tag else f"{name} (random weights)", encoder)


def _timm_model(name: str, pretrained: bool) -> Any:
    """Return a timm model without its classifier; its random weights depend on nothing drawn before."""
    import timm
    import torch

    from usjepa.cache.teacher.timm_models import build_timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if not pretrained:
            return build_timm(name, {}, "--encoder")
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # whatever the hub, the network or timm raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UsageError(
                f"--encoder {name}: timm can't load it ({reason}). Download the weights and give them as "
                f"FILE@{name.partition('.')[0]}, or leave the tag out for random weights."
            ) from error


def _input_of(config: dict[str, Any]) -> ModelInput:
    channels, edge, _ = config["input_size"]
    mean, std = (tuple(float(x) for x in config[key]) for key in ("mean", "std"))
    return ModelInput(int(edge), int(channels), mean, std)


def _hash(model: torch.nn.Module) -> str:
    from usjepa.cache.teacher.checkpoints.weights import weights_hash

    return weights_hash(model.state_dict())
