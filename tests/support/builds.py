"""Build small stores of the phantom, as the build tests do, and die on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.support.processes import forked
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.recipes.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

SMALL = (
    "cache.image_size=32", "cache.rows_per_shard=8", "cache.phantom.patients=2", "cache.phantom.frames_per_patient=5",
    "cache.phantom.size=64", "cache.views.count=2", "cache.teacher.patch_size=16", "cache.teacher.batch_size=4",
    "cache.teacher.depth=4", "cache.precision=fp32",
)  # fmt: skip


def small(*more: str) -> Recipe:
    """Return the demo recipe at a size that builds in a second: 20 rows, 3 shards a layer."""
    return load_recipe("demo", (*SMALL, *more))


def tree(root: Path) -> dict[str, bytes]:
    """Return every file of a store."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def build_small(store: str) -> None:
    build(store, small(), BuildRequest(teacher="random"))


def build_and_die(store: str, step: int) -> None:
    forked.die_at_durable_step(step)
    build(store, small(), BuildRequest(teacher="random"))


def pictures(root: Path, names: list[str], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 48), dtype=np.uint8))
