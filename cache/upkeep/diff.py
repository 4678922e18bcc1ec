"""Compare a store with what a recipe and a teacher would build, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.frames.layers import pixel_layers, pixel_soft
from usjepa.cache.identity import differences, explain
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import committed
from usjepa.cache.store.state import State, read_state
from usjepa.cache.store.writer import hard_differences
from usjepa.cache.teacher.layers import pass_layers

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer


@dataclass(frozen=True)
class Difference:
    """Differences between a store and a wanted build."""

    lines: list[str]
    hard: int
    """How many fields that change numbers differ; a build refuses from one on."""


def diff(store: str, recipe: Recipe, teacher: str | None = None) -> Difference:
    """Compare a store with what a recipe and a teacher would build.

    Args:
        store: folder or URL; sealed or not.
        recipe: its `cache` section.
        teacher: as for `build`; none: pixels and regions only.

    Raises:
        FormatError: no store there.
    """
    storage = open_storage(store)
    state = read_state(storage)
    wanted: list[tuple[Layer, dict[str, Json]]] = [
        (layer, dict(pixel_soft())) for layer in pixel_layers(recipe.cache, state.rows_per_shard)
    ]
    if teacher is not None and "pixels" in state.layers:
        wanted += _teachers(teacher, recipe, state)
    lines: list[str] = []
    hard = 0
    for layer, soft in wanted:
        found = _hard(state, layer)
        hard += len(found)
        lines += [f"layer {layer.name}: {_verdict(state, layer, len(found))}", *(f"{line}" for line in found)]
        lines += _soft(storage, state, layer, soft)
    return Difference(lines, hard)


def _teachers(teacher: str, recipe: Recipe, state: State) -> list[tuple[Layer, dict[str, Json]]]:
    from usjepa.cache.teacher.resolve import load_pass, resolve_teacher

    run = load_pass(resolve_teacher(teacher, recipe.cache.teacher), recipe.cache.image_size)
    return [(layer, run.teachers[0].soft) for layer in pass_layers(run, recipe.cache.form, state)]


def _verdict(state: State, layer: Layer, count: int) -> str:
    if layer.name not in state.layers:
        return "not in the store yet"
    return f"{count} fields differ (stored | wanted)" if count else "the same"


def _hard(state: State, layer: Layer) -> list[str]:
    stored = state.layers.get(layer.name)
    found = hard_differences(stored, layer) if stored is not None else []
    return explain(found).splitlines()


def _soft(storage: Storage, state: State, layer: Layer, wanted: dict[str, Json]) -> list[str]:
    """Return the versions that differ: recorded, never in the way."""
    stored = state.layers.get(layer.name)
    if stored is None:
        return []
    commits = committed(storage, stored)
    kinds = {explain(differences(commit.soft, wanted)) for commit in commits.values()} - {""}
    return [f"  not in the way: {line.strip()}" for kind in sorted(kinds) for line in kind.splitlines()]
