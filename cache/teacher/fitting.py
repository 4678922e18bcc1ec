"""Build the timm model that settings and a checkpoint describe together, and load it.

What a file can't tell (heads, activation, epsilon) is the stated architecture's or `cache.teacher.args`'. Where the
number of heads is stated there, everything that shapes tell is taken from them; where it is not, the architecture must
fit as it is, and a refusal names what would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.loading import load_into, stripped
from usjepa.cache.teacher.checkpoints.weights import read_weights, weights_hash
from usjepa.cache.teacher.exported import weights_file
from usjepa.cache.teacher.layouts.known import LAYOUTS
from usjepa.cache.teacher.layouts.layout import translated
from usjepa.cache.teacher.layouts.proposing import proposal
from usjepa.cache.teacher.layouts.shapes import FAMILIES, USUAL, family_of, structure
from usjepa.cache.teacher.timm_models import build_timm

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.checkpoints.loading import LoadReport
    from usjepa.cache.teacher.checkpoints.sets import Tensors
    from usjepa.cache.teacher.checkpoints.weights import Weights
    from usjepa.cache.teacher.layouts.layout import Translated

LAYOUT_VERSION = 1
"""Raised when a layout's translation gives other numbers."""


@dataclass(frozen=True)
class Fitted:
    """A timm model with its weights."""

    model: torch.nn.Module
    args: dict[str, Json]
    """What it was built with, beside the architecture's name."""
    weights: str
    """Content hash of the weights, as the file names them."""
    note: str | None
    """What became of the file's keys, or that the weights are random."""
    more: dict[str, Json] = field(default_factory=dict)
    """More of its identity: the layout where the file has other names than timm's, and how positions were resampled."""


def fit(settings: TeacherSettings, edge: int) -> Fitted:
    """Return the model that settings describe, for square inputs of `edge` pixels.

    Raises:
        UsageError: unknown architecture or arguments, missing weights, or a setting that no file of its kind tells.
        TeacherError: the checkpoint does not fit; the message proposes what would.
        DamageError: the weights are an exported encoder's, and not as they were exported.
    """
    stated: dict[str, Json] = {"img_size": edge}
    stated |= {name: value for name in ("patch_size", "depth") if (value := getattr(settings, name)) is not None}
    more: dict[str, Json] = {} if settings.positions is None else {"positions": settings.positions}
    if settings.weights is None:
        args = stated | settings.args
        model, args = _seeded(settings, args)
        return Fitted(model, args, weights_hash(model.state_dict()), _random_note(settings), more)
    weights = read_weights(weights_file(Path(settings.weights)), settings.key)
    found = translated(weights.tensors, LAYOUTS, weights.where)
    _check_asked(settings, found, weights)
    named = stripped(found.tensors, USUAL)
    _check_square(named, weights.where)
    _check_tables(named, edge, weights.where)
    args = stated | _told_by_shapes(settings, found, weights) | settings.args
    model, args = _seeded(settings, args)
    try:
        report = load_into(model, found.tensors, weights.where, settings.positions)
    except TeacherError as error:
        taken = f"{summary[0].upper()}{summary[1:]}.\n" if (summary := weights.summary()) else ""
        fits = proposal(found, settings.architecture, weights.where, "num_heads" in settings.args)
        raise TeacherError(f"{error}\n{taken}{fits}") from error
    if found.layout is not None:
        more["layout"] = f"{found.layout.name}/{LAYOUT_VERSION}"
    return Fitted(model, args, weights.hash, _note(settings, model, weights, report, found), more)


def _random_note(settings: TeacherSettings) -> str:
    return (
        f"teacher {settings.name!r} ({settings.architecture}) has RANDOM weights (seed {settings.seed}): its latents "
        "carry no learned knowledge. Give a checkpoint with --teacher FILE for real work."
    )


def _note(
    settings: TeacherSettings, model: torch.nn.Module, weights: Weights, report: LoadReport, found: Translated
) -> str:
    """Return what became of every key, and what the file could not tell, for the log."""
    whole = replace(report, dropped=report.dropped | found.dropped)
    layout = f"layout of {found.layout.name}" if found.layout is not None else ""
    told = [weights.summary(), layout, whole.summary(), _assumed(settings, model)]
    return f"{weights.where}: " + "; ".join(text for text in told if text)


def _assumed(settings: TeacherSettings, model: torch.nn.Module) -> str:
    """Return what was taken from the architecture because no file tells it."""
    block = getattr(model, "blocks", [None])[0]
    heads = getattr(getattr(block, "attn", None), "num_heads", None)
    activation = getattr(getattr(block, "mlp", None), "act", None)
    eps = getattr(getattr(block, "norm1", None), "eps", None)
    told = {
        "num_heads": f"{heads} heads" if heads else "",
        "act_layer": type(activation).__name__ if activation is not None else "",
        "eps": f"epsilon {eps:g}" if isinstance(eps, float) else "",
    }
    assumed = [text for name, text in told.items() if text and name not in settings.args]
    return f"{', '.join(assumed)}: as in {settings.architecture}" if assumed else ""


def _seeded(settings: TeacherSettings, args: dict[str, Json]) -> tuple[torch.nn.Module, dict[str, Json]]:
    """Return the timm model, and what it was built with: a convolutional one takes images of any size.

    Its random weights must not depend on what was drawn before it was built.
    """
    name = settings.architecture
    if "." in name:
        raise UsageError(
            f"cache.teacher.architecture={name}: a tag names weights, which come from a file. Give "
            f"{name.split('.')[0]}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            return build_timm(name, args), args
        except UsageError as error:
            if not (isinstance(error.__cause__, TypeError) and "'img_size'" in str(error.__cause__)):
                raise
        sizeless = {name: value for name, value in args.items() if name != "img_size"}
        return build_timm(name, sizeless), sizeless


def _check_asked(settings: TeacherSettings, found: Translated, weights: Weights) -> None:
    """Refuse a file of a kind whose input is mostly another than the default, until the settings state it."""
    asked = found.layout.asks if found.layout is not None else ()
    lacking = [name for name in asked if name != "act_layer" and name not in settings.model_fields_set]
    flags = [f"--set 'cache.teacher.{name}=[...]'" for name in lacking]
    # timm has two names for CLIP's models, one for each activation.
    if "act_layer" in asked and "act_layer" not in settings.args and "_clip_" not in settings.architecture:
        lacking.append("activation")
        flags.append("--set cache.teacher.args.act_layer=gelu (OpenAI's own models: quick_gelu)")
    if lacking and found.layout is not None:
        raise UsageError(
            f"{weights.where}: an encoder in the layout of {found.layout.name}, whose {', '.join(lacking)} no file "
            f"tells. State them: {' '.join(flags)}, or name a preset, PRESET={weights.where} "
            "(usjepa-cache teachers lists them)."
        )


def _check_square(tensors: Tensors, where: str) -> None:
    """Refuse patches, or a grid of positions, whose shapes show that they are not square."""
    projection, positions = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    if projection is not None and projection.ndim == 5:
        raise TeacherError(
            f"{where}: its patches have a third dimension, {list(projection.shape[2:])}: it learnt from clips or "
            "volumes, and its positions have no place in a timm model. Give it frames by an adapter, as "
            "docs/examples/vjepa2_teacher.py does: docs/how-to/add-a-teacher.md."
        )
    if projection is not None and projection.ndim == 4 and projection.shape[-2] != projection.shape[-1]:
        raise TeacherError(
            f"{where}: its patches have {projection.shape[-2]} x {projection.shape[-1]} pixels. Stored pixels are "
            "square, and so must be the grid of patches on which regions, masks and the student's patches lie."
        )
    if positions is None or positions.ndim != 3:
        return
    prefix = [int(tensors[name].shape[1]) for name in ("cls_token", "dist_token", "reg_token") if name in tensors]
    count = int(positions.shape[1])
    if all(math.isqrt(count - before) ** 2 != count - before for before in {0, *prefix, sum(prefix)} if before < count):
        raise TeacherError(
            f"{where}: its {count} positions are of no square grid: it learnt from images that are not square. A store "
            "keeps squares, so its positions have no place there. An adapter can give it what it needs: "
            "docs/how-to/add-a-teacher.md."
        )


def _check_tables(tensors: Tensors, edge: int, where: str) -> None:
    """Refuse BEiT's tables of relative positions for another grid: its codes differ in how to resample them."""
    table = next((t for name, t in tensors.items() if name.endswith("relative_position_bias_table")), None)
    projection = tensors.get("patch_embed.proj.weight")
    if table is None or projection is None or "cls_token" not in tensors:
        return  # Swin's are of windows
    grid = (math.isqrt(max(len(table) - 3, 0)) + 1) // 2
    learnt = grid * int(projection.shape[-1])
    if (2 * grid - 1) ** 2 + 3 == len(table) and learnt != edge:
        raise UsageError(
            f"{where}: its relative positions are of a grid of {grid} x {grid}, of images of {learnt} pixels, and not "
            f"of {edge}; BEiT's codes differ in how to resample them. Set cache.teacher.image_size={learnt}."
        )


def _told_by_shapes(settings: TeacherSettings, found: Translated, weights: Weights) -> dict[str, Json]:
    """Return the arguments that follow from a file: those of its layout and, where the heads are stated, of shapes."""
    implied = {} if found.layout is None else dict(found.layout.args)
    if "num_heads" not in settings.args:
        return implied
    family = family_of(settings.architecture)
    if found.layout is not None and found.layout.family != family:
        raise TeacherError(
            f"{weights.where}: its layout ({found.layout.name}) is not of {settings.architecture}'s kind: "
            f"--set cache.teacher.architecture={FAMILIES[found.layout.family]}."
        )
    return structure(stripped(found.tensors, USUAL), family, weights.where) | implied
