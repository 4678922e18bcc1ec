"""Show three test frames, each beside the colours of its patch tokens.

Of classes: one recognised, one mistaken, one of which the encoder is least sure; of numbers: the nearest to the truth,
the farthest from it, and one of middling error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.pages.pictures import png_uri, stored_picture
from usjepa.evaluate.report.answer.overlay import EDGE, overlays
from usjepa.evaluate.report.examples import hidden
from usjepa.evaluate.report.text import plain_number
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.scoring.items import Items
    from usjepa.evaluate.tasks.task import Task

    Tokens = Callable[[Task], NDArray[np.float32] | None]
    """Patch tokens [n, H, W, D] of a task's frames; None where the encoder gives none."""
    Chosen = list[tuple[str, int]]
    """Why, and which of the test frames."""


@dataclass(frozen=True)
class Shown:
    """A test frame and what the encoder makes of it."""

    task: str
    why: str
    """It was chosen."""
    said: str
    """By the probe."""
    truth: str
    right: bool | None
    """None: a number, which is neither."""
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
    told = [
        (
            f"{task.classes[predicted[at]]}, {100 * probability_NC[at].max():.0f} %",
            task.classes[truth[at]],
            bool(predicted[at] == truth[at]),
        )
        for _, at in chosen
    ]
    return _shown(task.only(test[[at for _, at in chosen]]), chosen, told, tokens)


def three_numbers(items: Items, said_N: NDArray[np.float64], tokens: Tokens) -> list[Shown]:
    """Return at most three test frames of a regression, of a clip or patient its first; none that may not be shown.

    Args:
        items: what is scored.
        said_N: number that the run's encoder gives each item of the test.
        tokens: of the same encoder.
    """
    task, first, true_N = items.task, items.first(TEST), items.values(TEST)
    chosen = chosen_numbers(np.abs(said_N - true_N), task.groups[first])
    frames = task.frames(first[[at for _, at in chosen]])
    if hidden(frames):
        return []
    told = [(_number(said_N[at], task.unit), _number(true_N[at], task.unit), None) for _, at in chosen]
    return _shown(frames, chosen, told, tokens)


def _number(value: float, unit: str) -> str:
    return f"{plain_number(value)} {unit}".rstrip()


def _shown(frames: Task, chosen: Chosen, told: Sequence[tuple[str, str, bool | None]], tokens: Tokens) -> list[Shown]:
    batch = frames.store.read(frames.rows, layers=("pixels", "regions"))
    pictures = zip(batch.pixels, overlays(batch, tokens(frames)), strict=True)
    return [
        Shown(frames.name, why, said, truth, right, png_uri(stored_picture(frame), EDGE), overlay)
        for (why, _), (said, truth, right), (frame, overlay) in zip(chosen, told, pictures, strict=True)
    ]


def chosen_frames(
    probability_NC: NDArray[np.float64], truth_N: NDArray[np.int64], groups_N: NDArray[np.int64]
) -> Chosen:
    """Return why and which frames: the surest recognised, the surest mistaken, the least sure; other patients first."""
    sure_N = np.round(probability_NC.max(axis=1), 6)  # rounded, so that the last bits of a sum don't choose the frames
    right_N = probability_NC.argmax(axis=1) == truth_N
    wanted = (
        ("Recognised most surely", right_N, -sure_N),
        ("Mistaken most surely", ~right_N, -sure_N),
        ("Least sure", np.ones_like(right_N), sure_N),
    )
    return _chosen(wanted, groups_N)


def chosen_numbers(miss_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Chosen:
    """Return why and which items: the smallest error, the largest, and the one nearest to the median."""
    every = np.ones(len(miss_N), dtype=np.bool_)
    scale = float(miss_N.max()) or 1.0
    rounded_N = np.round(miss_N / scale, 6)
    wanted = (
        ("Nearest to the truth", every, rounded_N),
        ("Farthest from the truth", every, -rounded_N),
        ("Of middling error", every, np.abs(rounded_N - np.median(rounded_N))),
    )
    return _chosen(wanted, groups_N)


def _chosen(
    wanted: Sequence[tuple[str, NDArray[np.bool_], NDArray[np.float64]]], groups_N: NDArray[np.int64]
) -> Chosen:
    """Return for each wish the first free one of those allowed, in its order; other groups than before come first."""
    chosen: Chosen = []
    for why, among_N, order_N in wanted:
        taken = [at for _, at in chosen]
        free = np.setdiff1d(np.flatnonzero(among_N), taken)
        if len(free):
            seen = np.isin(groups_N[free], groups_N[taken])
            chosen.append((why, int(free[np.lexsort((free, order_N[free], seen))[0]])))
    return chosen
