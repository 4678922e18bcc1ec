"""Tell frames that show no echo: one colour, few levels, or no scan region.

Forms, test patterns, label maps, empty recordings and files that were read wrongly all look like this, and nobody sees
them among a million rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.sources.base import levels_of
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

FEWEST_LEVELS = 8
"""Grey levels below which a frame shows no echo."""
SMALLEST_REGION = 0.02
"""Share of a frame below which a scan region holds none."""
_NAMED = 20
"""Lines of a list that are shown; the others are counted."""
_STRIDE = 8
"""Pixels between two that are looked at first: nearly every frame has levels enough in these."""


def why_blank(frame: NDArray[np.uint8], region: NDArray[np.bool_]) -> str:
    """Return why a frame [H, W] or [H, W, 3] with that region [H, W] shows no echo; empty where it may show some.

    Stored rows can be asked too, with the cells [n, n] of their region.
    """
    if levels_of(frame[::_STRIDE, ::_STRIDE]) < FEWEST_LEVELS:
        levels = levels_of(frame)
        if levels == 1 and (frame == frame[:1, :1]).all():
            return "one colour"
        if levels < FEWEST_LEVELS:
            return f"{levels} level{'s' if levels > 1 else ''}"
    share = np.count_nonzero(region) / region.size
    return f"scan region of {share:.1%}" if share < SMALLEST_REGION else ""


def blank_lines(blank: Sequence[tuple[int, str]]) -> list[str]:
    """Return a line per blank row, (number, which frame it shows and why it is blank), the first 20 of them."""
    lines = [f"  row {row}: {shown_name(what)}" for row, what in sorted(blank)]
    return [*lines[:_NAMED], *([f"  ... and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else [])]


def frames_lines(blank: Iterable[tuple[str, int, str]]) -> list[str]:
    """Return a line per source of (path, frame, why) that names its frames by reason, the first 20 of them."""
    found: dict[tuple[str, str], list[int]] = {}
    for path, frame, why in blank:
        found.setdefault((path, why), []).append(frame)
    lines = [f"  {shown_name(path)}: {_ranges(frames)} ({why})" for (path, why), frames in found.items()]
    return [*lines[:_NAMED], *([f"  ... and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else [])]


def _ranges(frames: Sequence[int]) -> str:
    if len(frames) == 1:
        return f"frame {frames[0]}"
    shown = ", ".join(map(str, frames[:5]))
    return f"{len(frames):,} frames ({shown}{', ...' if len(frames) > 5 else ''})"
