"""Cut rows again as their sources have them, but for the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.scanning.scan import list_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.cache import CacheSettings

_AS_IT_WAS = {"grey": False, "inpaint_below": 0.0, "percentiles": (0.0, 100.0), "deidentify": False}
"""Preprocessing that leaves a frame as its source has it, but for its size."""


def as_they_were(
    store: Store, numbers: Sequence[int], source: str, settings: CacheSettings
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield rows and their views of the frame as the source has it, uint8 [C, S, S]; not those that can't be read.

    Args:
        store: whose rows.
        numbers: which.
        source: where the sources lie.
        settings: of the recipe that the store was built with.
    """
    plain = settings.preprocess.model_copy(update=_AS_IT_WAS)
    settings = settings.model_copy(update={"preprocess": plain, "image_size": store.size, "on_blank": "keep"})
    segments = store.manifest.segments
    cutters = Cutters(store.storage, segments, list_source(source, settings, groups=False), settings)
    try:
        for number in numbers:
            segment = next(s for s in segments if s.first_row <= number < s.first_row + s.rows)
            one = cutters.cut(segment.number, range(number, number + 1), True)
            if not one.holes:
                yield number, one.pixels[0]
    finally:
        cutters.close()
