"""Choose the frames of a source that become rows.

With `cache.min_change` a frame of a clip is passed over while it differs too little from the last one kept. How far two
frames are apart is counted in bits of their perceptual hashes, which the scan makes as it decodes a clip to count its
frames: so rows are known before anything is cut, and a clip is not decoded for it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.perceptual import HASH_NBYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.store.tables import SourceTable

Hashes = Mapping[tuple[str, str], bytes]
"""(content hash, reader as tables name it) of a clip -> the hashes of its frames, one after the other."""


class Taken(NamedTuple):
    """The frames of a source that become rows."""

    frames: NDArray[np.int32]
    """Their numbers, ascending."""
    passed_over: int = 0
    """Frames that were left out because they differ too little from the last one kept."""


def taken_frames(count: int, hashes: bytes | None, settings: CacheSettings) -> Taken:
    """Return which frames of a source are stored.

    Those that differ enough from the last one kept, the first always; and, where these are more than
    `max_frames_per_source`, so many of them, evenly spaced, without those that come to lie beside one too like them.

    Args:
        count: frames of the source.
        hashes: of all its frames; needed only where a recipe has `min_change`, and the source is a clip.
        settings: of the recipe.
    """
    most = settings.max_frames_per_source
    if not settings.min_change or count < 2:
        return Taken(chosen_frames(count, most))
    if hashes is None or len(hashes) != count * HASH_NBYTES:
        raise ValueError(f"the frames of a clip of {count} were not hashed")
    codes = [int.from_bytes(hashes[place : place + HASH_NBYTES]) for place in range(0, len(hashes), HASH_NBYTES)]
    kept = _different(range(count), codes, settings.min_change)
    chosen = [kept[place] for place in chosen_frames(len(kept), most).tolist()]
    # Of a movement that repeats, evenly spaced frames may all show the same.
    stored = chosen if len(chosen) == len(kept) else _different(chosen, codes, settings.min_change)
    return Taken(np.array(stored, dtype=np.int32), count - len(kept) + len(chosen) - len(stored))


def frames_of(table: SourceTable, hashes: Hashes, settings: CacheSettings) -> list[NDArray[np.int32]]:
    """Return which frames of each source of a table are stored; see `taken_frames`."""
    if not settings.min_change:  # sources of equally many frames share an array
        chosen = {count: chosen_frames(count, settings.max_frames_per_source) for count in set(table.frames.tolist())}
        return [chosen[count] for count in table.frames.tolist()]
    keys = zip(table.content_hash, table.reader, table.frames.tolist(), strict=True)
    return [taken_frames(count, hashes.get((content, stamp)), settings).frames for content, stamp, count in keys]


def chosen_frames(count: int, most: int | None) -> NDArray[np.int32]:
    """Return the numbers below `count`: all, or `most` of them evenly spaced, first and last included.

    They are the whole numbers nearest to `np.linspace(0, count - 1, most)`, halves rounded up, computed in integers.
    """
    if most is None or count <= most:
        return np.arange(count, dtype=np.int32)
    if most == 1:
        return np.zeros(1, dtype=np.int32)
    steps = np.arange(most, dtype=np.int64)
    return ((2 * steps * (count - 1) + most - 1) // (2 * (most - 1))).astype(np.int32)


def passed_over_lines(tables: Sequence[SourceTable]) -> list[str]:
    """Return a line on the frames that were passed over, where there are any."""
    return passed_over_told((table.passed_over, table.frames) for table in tables)


def passed_over_told(parts: Iterable[Sequence[NDArray[Any]]]) -> list[str]:
    """Return that line from parts of the columns `passed_over` and `frames` of tables, [n] each."""
    count = frames = number = 0
    for passed_over, all_frames in parts:
        clips = passed_over > 0
        count, frames = count + int(passed_over.sum()), frames + int(all_frames[clips].sum())
        number += int(clips.sum())
    if not count:
        return []
    of = f"{count:,} of {frames:,} frames of {number:,} clip{'s' if number > 1 else ''}"
    return [f"passed over: {of}, for they differ too little from the last one kept (cache.min_change)"]


def _different(among: Sequence[int], codes: Sequence[int], bits: int) -> list[int]:
    """Return the first of some frames, and each that differs from the last one returned in at least so many bits."""
    kept = [among[0]]
    for number in among[1:]:
        if (codes[number] ^ codes[kept[-1]]).bit_count() >= bits:
            kept.append(number)
    return kept
