"""The log of a run: one JSON object a line in `log.jsonl`.

`{"kind": "step", "step", "epoch", "loss", "lr", "wd", "grad_norm", "images", "unusable", "batch", "images_per_s",
"data_wait_s"}` for every optimizer step, `batch` being a fingerprint of its rows and masks; `{"kind": "validation",
"epoch", "step", "loss", "images", "unusable", "best", "target_mean", "target_std", "rankme", "feature_std", "knn"}` at
the end of every epoch (what can't be measured is left out). Floats are written so that they read
back as the same bits. A resumed run first takes back the lines after its checkpoint, so no step is ever there twice.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from usjepa.cache.storage.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.train.record.tensorboard import Events

Line = dict[str, Any]


def read_log(path: Path) -> list[Line]:
    """The whole lines of a log, in order; [] when there is none. A last line that was cut is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        lines.append(json.loads(text))
    return lines


class Journal:
    """Appends to a log."""

    def __init__(
        self, path: Path, step: int, validated: int, writes: bool = True, events: Events | None = None
    ) -> None:
        """Open a log at a checkpoint: lines of `step` and later and of epochs not yet `validated` are taken back.

        Ranks that do not write keep the same lines in memory.
        """
        self.path = path
        self.lines = [line for line in read_log(path) if _before(line, step, validated)]
        self._file: BinaryIO | None = None
        self._events = events
        if not writes:
            return
        # The same bytes as `write` gives: floats and key order survive the round trip.
        kept = b"".join(_bytes(line) for line in self.lines)
        if not path.exists() or path.read_bytes() != kept:
            write_durably(path, kept)
        self._file = path.open("ab")

    def write(self, line: Line) -> None:
        """Append a line; it is seen at once, and durable after `sync`."""
        self.lines.append(line)
        if self._file is not None:
            self._file.write(_bytes(line))
            self._file.flush()
        if self._events is not None:
            self._events.write(line)

    def sync(self) -> None:
        """Make what was written outlive a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()


def _bytes(line: Line) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def _before(line: Line, step: int, validated: int) -> bool:
    """Whether a checkpoint of `step` steps and `validated` epochs comes after this line."""
    if line["kind"] == "step":
        return bool(line["step"] < step)
    return bool(line["epoch"] < validated)
