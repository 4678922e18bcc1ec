"""Choose the test frames that the page shows: recognised and mistaken ones, most surely first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.pages.pictures import png_uri, stored_picture
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.tasks.task import Task

_SHOWN = 6


@dataclass(frozen=True)
class Example:
    """A test frame and its prediction by the student's probes."""

    task: str
    truth: str
    predicted: str
    confidence: float
    """Mean probability of the predicted class over the probes."""
    image: str
    """Data URI."""

    @property
    def right(self) -> bool:
        """Whether the frame is recognised."""
        return self.truth == self.predicted


def examples_of(task: Task, probability_NC: NDArray[np.float64]) -> list[Example]:
    """Return at most six recognised and six mistaken test frames; none where `hidden` gives a reason.

    Args:
        task: the task.
        probability_NC: of the student's probes, [test frames, classes].
    """
    if hidden(task):
        return []
    test = task.positions(TEST)
    predicted = probability_NC.argmax(axis=1)
    right = predicted == task.labels[test]
    groups = task.groups[test]
    chosen = [position for among in (right, ~right) for position in _pick(probability_NC, predicted, groups, among)]
    if not chosen:
        return []
    pixels = task.store.read(task.rows[test[chosen]], layers=("pixels",)).pixels
    return [
        Example(
            task.name,
            task.classes[task.labels[test[position]]],
            task.classes[predicted[position]],
            float(probability_NC[position, predicted[position]]),
            png_uri(stored_picture(frame)),
        )
        for position, frame in zip(chosen, pixels, strict=True)
    ]


def hidden(task: Task) -> str:
    """Return why no frame of a task may be shown; "" where they may."""
    preprocess = task.store.identity["pixels"].get("preprocess", {})
    if preprocess.get("deidentify", True):
        return ""
    return f"{task.name}: its frames are not shown, because they were stored with deidentify=false."


def _pick(
    probability: NDArray[np.float64],
    predicted: NDArray[np.int64],
    groups: NDArray[np.int64],
    among: NDArray[np.bool_],
) -> list[int]:
    """Return up to six positions, each predicted class in turn and no patient twice while there are others."""
    sure = np.round(probability.max(axis=1), 6)  # rounded, so that the last bits of a sum don't choose the frames
    waiting = [int(i) for i in np.lexsort((np.arange(len(sure)), -sure)) if among[i]]
    shown: list[int] = []
    while waiting and len(shown) < _SHOWN:
        # Frames of a clip look alike and are equally sure: unsorted by patient, one clip would fill the page.
        best = min(
            waiting,
            key=lambda i: (
                sum(groups[i] == groups[j] for j in shown),
                sum(predicted[i] == predicted[j] for j in shown),
                -sure[i],
                i,
            ),
        )
        shown.append(best)
        waiting.remove(best)
    return sorted(shown, key=lambda i: (-sure[i], i))
