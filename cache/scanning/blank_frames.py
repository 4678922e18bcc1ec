"""Look at frames that a build would store, for those that show no echo."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import SourceError
from usjepa.cache.scanning.changes import chosen_frames
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.files.stamps import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.decoding.child import DecodingProcess
    from usjepa.cache.store.tables import SourceTable

_MOST_FRAMES = 2000
"""Frames that are looked at, evenly over all sources: finding a scan region takes longer than counting a frame."""


class Looked(NamedTuple):
    """What was seen."""

    frames: int
    """Frames that were looked at."""
    blank: list[tuple[str, int, str]]
    """Path, frame and why it is blank."""


def look_at(table: SourceTable, taken: Sequence[NDArray[np.int32]], child: DecodingProcess) -> Looked:
    """Look at the frames of a scanned table that the recipe takes (`frames_of`), at most about 2,000 of them.

    A source that can't be read any more is passed over: its reason is told elsewhere.
    """
    wanted = [
        (place, taken[place])
        for place in range(len(table))
        if table.frames[place] and name_of(table.reader[place]) != PHANTOM
    ]
    each = max(1, _MOST_FRAMES // max(len(wanted), 1))
    chosen = [wanted[i] for i in chosen_frames(len(wanted), _MOST_FRAMES).tolist()] if wanted else []
    count, blank = 0, []
    for place, frames in chosen:
        numbers = frames[chosen_frames(len(frames), each)].tolist()
        path = str(table.path[place])
        try:
            whys = child.why_blank(path, str(table.reader[place]), numbers, str(table.content_hash[place]))
        except SourceError:
            continue
        count += len(numbers)
        blank += [(path, frame, why) for frame, why in zip(numbers, whys, strict=True) if why]
    return Looked(count, blank)
