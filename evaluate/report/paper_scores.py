"""The published table: macro F1 of US-JEPA and its rivals on eight tasks, to stand beside our scores on those tasks.

From US-JEPA, arXiv 2602.19322v1, main table: linear probes, mean and standard deviation over five seeds, percent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.identity import Json

SOURCE = "US-JEPA, arXiv 2602.19322v1, main table"

_TASKS = ("aul_mass", "busbra", "butterfly", "fatty_liver", "gbcu", "mmotu", "pocus", "tn5000")
_LAYOUT = {"busbra": "busbra", "tn5000": "tn5000"}
"""Layout that the paper's own additions are published in; the others are UltraBench's."""

_TABLE = {
    "DINOv3": "64.3 0.6 70.9 1.7 91.7 0.4 55.8 5.5 61.7 0.5 37.2 0.6 91.4 0.4 67.5 0.4",
    "I-JEPA": "61.5 1.1 71.2 4.0 90.5 0.6 54.8 1.6 53.7 0.4 35.3 0.6 88.1 0.4 68.9 0.2",
    "UltraSAM": "62.6 3.1 70.2 3.1 89.6 2.4 66.9 3.3 43.5 4.9 39.7 1.8 87.3 2.1 63.9 2.0",
    "SAMUS": "40.2 0.9 65.9 0.3 91.5 0.0 42.1 0.0 48.8 0.3 20.4 0.2 76.2 0.1 51.7 0.0",
    "EchoCare": "49.2 2.4 64.4 0.0 84.1 0.7 42.1 0.0 36.2 0.5 21.1 0.1 73.8 3.9 49.8 3.8",
    "USF-MAE": "58.1 1.4 62.9 0.5 91.1 0.3 42.1 0.0 45.9 0.3 28.7 0.3 90.1 0.0 56.3 1.1",
    "USFM": "61.6 1.2 74.6 0.5 92.4 0.3 73.6 8.8 67.4 0.6 33.8 0.3 85.7 0.5 65.0 2.6",
    "URFM": "71.5 1.1 69.5 2.2 92.1 0.4 82.6 6.0 59.1 1.7 42.7 0.4 91.7 0.3 77.4 0.4",
    "US-JEPA": "69.6 1.5 73.8 1.1 90.8 0.3 82.5 1.1 67.0 1.4 52.2 0.2 93.1 0.0 73.1 0.7",
    "USrc-JEPA": "67.6 0.5 76.0 1.2 91.5 0.6 89.2 0.9 70.2 0.5 46.8 0.2 92.5 0.1 70.8 1.3",
}
"""Model -> mean and deviation on each task, in the order of `_TASKS`."""

_TEST_FRAMES = {
    "aul_mass": 147,
    "busbra": 213,
    "butterfly": 6751,
    "fatty_liver": 110,
    "gbcu": 122,
    "mmotu": 469,
    "pocus": 443,
    "tn5000": 1000,
}


def published_for(layout: str, name: str) -> Json:
    """Return the published scores on a task, None where it is none of the paper's.

    A task is one of the paper's by how it lies on disk and by its name; a folder that merely bears the name is none.
    """
    if name not in _TASKS or layout != _LAYOUT.get(name, "ultrabench"):
        return None
    at = 2 * _TASKS.index(name)
    columns = {model: [float(word) for word in line.split()] for model, line in _TABLE.items()}
    return {
        "source": SOURCE,
        "test_frames": _TEST_FRAMES[name],
        "macro_f1": {
            model: {"mean": round(values[at] / 100, 4), "sd": round(values[at + 1] / 100, 4)}
            for model, values in columns.items()
        },
    }
