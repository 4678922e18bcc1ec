"""Describe the `pixels` and `regions` layers that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.frames.cells import packed_nbytes
from usjepa.cache.frames.prepare import PREPROCESS_VERSION
from usjepa.cache.frames.regions import REGION_VERSION
from usjepa.cache.frames.text import TEXT_VERSION
from usjepa.cache.frames.views import VIEW_VERSION
from usjepa.cache.identity import Json, soft_versions
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.store.layers import Layer

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import CacheSettings


def pixel_layers(settings: CacheSettings, rows_per_shard: int) -> tuple[Layer, Layer]:
    """Return the layers `pixels` and `regions`; everything that changes their numbers is in their identity."""
    size, channels = settings.image_size, 1 if settings.preprocess.grey else 3
    versions = {"preprocess": PREPROCESS_VERSION, "region": REGION_VERSION, "view": VIEW_VERSION}
    if settings.preprocess.deidentify and settings.preprocess.text in ("skip", "inpaint"):
        versions["text"] = TEXT_VERSION  # elsewhere what is found stops the build or changes nothing
    identity = {**hard_values(settings, "pixels"), "versions": versions}
    return (
        Layer("pixels", "uint8", (channels, size, size), rows_per_shard, identity),
        Layer("regions", "uint8", (packed_nbytes(size),), rows_per_shard, identity),
    )


def pixel_soft() -> dict[str, Json]:
    """Return the library versions that pixels are made with: the soft identity of these layers."""
    names = ["av", "imagecodecs", "numpy", "opencv-python-headless", "pillow", "pydicom", "tifffile", "usjepa"]
    return soft_versions(names)
