"""Which test frames the report shows: what the student recognises and what it mistakes, most surely first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.figures import frame_png
from usjepa.evaluate.report import Example
from usjepa.evaluate.splits import TEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.tasks import Task

SHOWN = 6


def examples_of(task: Task, probability: NDArray[np.float64]) -> tuple[list[Example], str]:
    """Return at most six recognised and six mistaken test frames, and a note where none may be shown.

    Args:
        task: the task.
        probability: [test frames, classes] of the student's probes.
    """
    if not _deidentified(task):
        return [], f"{task.name}: its frames are not shown, because they were stored with deidentify=false."
    test = task.positions(TEST)
    predicted = probability.argmax(axis=1)
    right = predicted == task.labels[test]
    chosen = [*_pick(probability, predicted, right), *_pick(probability, predicted, ~right)]
    if not chosen:
        return [], ""
    pixels = task.store.read(task.rows[test[chosen]], layers=("pixels",)).pixels
    return [
        Example(
            task.name,
            task.classes[task.labels[test[position]]],
            task.classes[predicted[position]],
            float(probability[position, predicted[position]]),
            frame_png(frame),
        )
        for position, frame in zip(chosen, pixels, strict=True)
    ], ""


def _pick(probability: NDArray[np.float64], predicted: NDArray[np.int64], among: NDArray[np.bool_]) -> list[int]:
    """Return up to six positions, the surest of each predicted class in turn, so that no class fills the page."""
    sure = np.round(probability.max(axis=1), 6)  # rounded, so that the last bits of a sum don't choose the frames
    queues = []
    for label in range(probability.shape[1]):
        mine = np.flatnonzero(among & (predicted == label))
        queues.append([int(i) for i in mine[np.argsort(-sure[mine], kind="stable")]])
    chosen: list[int] = []
    while len(chosen) < SHOWN and any(queues):
        for queue in queues:
            if queue and len(chosen) < SHOWN:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda position: (-sure[position], position))


def _deidentified(task: Task) -> bool:
    preprocess = task.store.identity["pixels"].get("preprocess", {})
    return bool(preprocess.get("deidentify", True))
