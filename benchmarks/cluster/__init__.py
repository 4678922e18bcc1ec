"""How busy builders keep devices and decoders that are pretended: alone, as a worker of Dask, with two devices.

`__main__.py` compares; `one.py` is one build in a process of its own; `pretending.py` and `decoder.py` are what it
pretends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe

DECODERS, ROWS_PER_SHARD, BATCH, VIEWS, FRAMES = 16, 128, 64, 8, 4


def recipe(rows: int) -> Recipe:
    """Return the recipe of so many rows: small latents, as it is not the disk that is measured."""
    from usjepa.cache.recipes.recipe import load_recipe

    sets = {
        "image_size": 112,
        "views.count": VIEWS,
        "phantom.patients": rows // (VIEWS * FRAMES),
        "phantom.frames_per_patient": FRAMES,
        "phantom.size": 64,
        "rows_per_shard": ROWS_PER_SHARD,
        "teacher.batch_size": BATCH,
        "decode_processes": DECODERS,
        "precision": "fp16",
    }
    return load_recipe("demo", [f"cache.{name}={value}" for name, value in sets.items()])
