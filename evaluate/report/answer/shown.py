"""Show three test frames, each beside the colours of its patch tokens.

One is recognised, one mistaken, of one the encoder is least sure.

Colours are the first three principal components of the three frames' patch tokens within the scan, together: patches of
one colour are alike to the encoder. No label takes part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.pages.pictures import png_uri, stored_picture
from usjepa.evaluate.encoders.pooling import region_shares
from usjepa.evaluate.report.examples import hidden
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.evaluate.tasks.task import Task

    Tokens = Callable[[Task], NDArray[np.float32] | None]
    """Patch tokens [n, H, W, D] of a task's frames; None where the encoder gives none."""

_EDGE = 192
"""Pixels of a picture."""
_COLOURED = 0.55
"""Share of the colours over the frame."""
_FEWEST = 4
"""Patches that components are made of."""
_INSIDE = 0.5
"""Share of a patch that lies in the scan where it takes part in the components."""


@dataclass(frozen=True)
class Shown:
    """A test frame and what the encoder makes of it."""

    task: str
    why: str
    """It was chosen."""
    said: str
    """By the probe."""
    truth: str
    right: bool
    image: str
    """Data URI."""
    overlay: str
    """Data URI: the frame under the colours of its patches; "" where there are none."""


def three_frames(task: Task, probability_NC: NDArray[np.float64], tokens: Tokens) -> list[Shown]:
    """Return at most three test frames of different patients; none where frames may not be shown.

    Args:
        task: the task.
        probability_NC: of the run's encoder, [test frames, classes].
        tokens: of the same encoder.
    """
    if hidden(task):
        return []
    test = task.positions(TEST)
    predicted, truth = probability_NC.argmax(axis=1), task.labels[test]
    chosen = chosen_frames(probability_NC, truth, task.groups[test])
    frames = task.only(test[[at for _, at in chosen]])
    batch = frames.store.read(frames.rows, layers=("pixels", "regions"))
    overlays = _overlays(batch, tokens(frames))
    return [
        Shown(
            task.name,
            why,
            f"{task.classes[predicted[at]]}, {100 * probability_NC[at].max():.0f} %",
            task.classes[truth[at]],
            bool(predicted[at] == truth[at]),
            png_uri(stored_picture(frame), _EDGE),
            overlay,
        )
        for (why, at), frame, overlay in zip(chosen, batch.pixels, overlays, strict=True)
    ]


def _overlays(batch: Batch, tokens_NHWD: NDArray[np.float32] | None) -> list[str]:
    """Return each frame under its colours as a data URI; "" without tokens."""
    if tokens_NHWD is None:
        return [""] * len(batch.pixels)
    grid = (tokens_NHWD.shape[1], tokens_NHWD.shape[2])
    colours = token_colours(tokens_NHWD, region_shares(batch, grid) >= _INSIDE)
    cells = unpack_cells(batch.regions, batch.pixels.shape[-1])
    pairs = zip(batch.pixels, colours, cells, strict=True)
    return [png_uri(blended(frame, one, scan), _EDGE) for frame, one, scan in pairs]


def chosen_frames(
    probability_NC: NDArray[np.float64], truth_N: NDArray[np.int64], groups_N: NDArray[np.int64]
) -> list[tuple[str, int]]:
    """Return why and which frames: the surest recognised, the surest mistaken, the least sure; other patients first."""
    sure_N = np.round(probability_NC.max(axis=1), 6)  # rounded, so that the last bits of a sum don't choose the frames
    right_N = probability_NC.argmax(axis=1) == truth_N
    wanted = (
        ("Recognised most surely", right_N, -sure_N),
        ("Mistaken most surely", ~right_N, -sure_N),
        ("Least sure", np.ones_like(right_N), sure_N),
    )
    chosen: list[tuple[str, int]] = []
    for why, among_N, order_N in wanted:
        taken = [at for _, at in chosen]
        free = np.setdiff1d(np.flatnonzero(among_N), taken)
        if len(free):
            seen = np.isin(groups_N[free], groups_N[taken])
            chosen.append((why, int(free[np.lexsort((free, order_N[free], seen))[0]])))
    return chosen


def token_colours(tokens_NHWD: NDArray[np.float32], inside_NHW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the first three principal components of the patches as red, green and blue, uint8 [n, H, W, 3].

    Args:
        tokens_NHWD: patch tokens.
        inside_NHW: the patches that the components are of; fewer than four: all.
    """
    shape = tokens_NHWD.shape
    flat, used = tokens_NHWD.reshape(-1, shape[-1]).astype(np.float64), inside_NHW.reshape(-1)
    if used.sum() < _FEWEST:
        used = np.ones_like(used)
    flat -= flat[used].mean(axis=0)
    _, _, directions = np.linalg.svd(flat[used], full_matrices=False)
    # The sign of a component is arbitrary: its largest entry is made positive.
    first = directions[:3]
    first = first * np.sign(first[np.arange(len(first)), np.abs(first).argmax(axis=1)])[:, None]
    parts = np.zeros((len(flat), 3))
    parts[:, : len(first)] = flat @ first.T
    low, high = np.percentile(parts[used], (2, 98), axis=0)
    scaled = np.clip((parts - low) / np.where(high > low, high - low, 1.0), 0, 1)
    colours: NDArray[np.uint8] = np.rint(255 * scaled).astype(np.uint8).reshape(*shape[:3], 3)
    return colours


def blended(
    pixels_CSS: NDArray[np.uint8], colours_HW3: NDArray[np.uint8], cells_RR: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return a frame under the colours of its patches, within the cells of the scan: uint8 [S, S, 3]."""
    edge = pixels_CSS.shape[-1]
    frame = np.broadcast_to(stored_picture(pixels_CSS)[..., :3], (edge, edge, 3)).astype(np.float64)
    at = np.arange(edge)
    rows, columns = (at * patches // edge for patches in colours_HW3.shape[:2])
    inside = cells_RR[at * len(cells_RR) // edge][:, at * len(cells_RR) // edge]
    share = np.where(inside if inside.any() else True, _COLOURED, 0.0)[..., None]
    mixed: NDArray[np.uint8] = np.rint((1 - share) * frame + share * colours_HW3[rows][:, columns]).astype(np.uint8)
    return mixed
