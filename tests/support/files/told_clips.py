"""Read clips of a made-up format whose frames follow from their numbers, and note what is decoded by whom."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.sources.base import FileFacts, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

NOTES = "USJEPA_TEST_NOTES"
"""Environment variable: the file that each decoded frame is noted in."""
_SIDE = 24


class ToldClipReader(Reader):
    """A frame costs all those before it; the last clip stays open where it has got to.

    A file says, as JSON, how many `frames` it has, which are `blank`, which one it `breaks` at, and which one it `dies`
    of.
    """

    name = "told"
    version = 1
    title = "a told clip"
    endings = (".told",)

    def __init__(self) -> None:
        self._file, self._at = Path(), -1

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Return the facts."""
        del image
        return FileFacts(json.loads(file.read_text())["frames"], _SIDE, _SIDE)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames, going on from where the last call ended."""
        del image
        told = json.loads(file.read_text())
        for number in wanted:
            if file != self._file or number < self._at:
                self._file, self._at = file, -1
            with Path(os.environ[NOTES]).open("a") as notes:
                notes.write("".join(f"{os.getpid()} {file.stem} {one}\n" for one in range(self._at + 1, number + 1)))
            self._at = number
            if number == told.get("breaks"):
                raise ValueError("a slice is missing")
            if number == told.get("dies"):
                os.kill(os.getpid(), signal.SIGSEGV)
            yield frame(number, number in told.get("blank", ()))


def frame(number: int, blank: bool = False) -> NDArray[np.uint8]:
    """Return a frame: one scene, in which little moves."""
    if blank:
        return np.zeros((_SIDE, _SIDE), np.uint8)
    shown = np.random.default_rng(0).integers(40, 255, (_SIDE, _SIDE), dtype=np.uint8)
    shown[8:12, 8:12] = 40 + number % 200
    return shown
