"""Write and read the log of a run, one JSON object per line.

`lines.py` defines the lines: one for every optimizer step and one for the validation at the end of every epoch. Floats
are written so that they read back as the same bits. A resumed run first removes the lines behind its checkpoint, so no
step is ever there twice. On request, TensorBoard events are written beside the log.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from usjepa.cache.errors import TrainingError, UsageError
from usjepa.cache.storage.durable import write_durably
from usjepa.train.record.history import History

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usjepa.train.record.lines import Line

_NOT_SCALARS = ("kind", "step", "epoch", "batch", "best")


def read_log(path: Path) -> list[Line]:
    """Return the complete lines of a log, in order; [] if there is none. A last line that was cut is left out.

    Raises:
        ValueError: a line is not JSON.
    """
    return [line for line, _ in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[Line, int]]:
    """Yield the complete lines of a log, each with the offset in bytes of its end."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                return
            end += len(text)
            yield cast("Line", json.loads(text)), end


class RunLog:
    """Appends to a log, and summarises it in `history`."""

    def __init__(self, path: Path, step: int, validated: int, events: Events | None = None) -> None:
        """Open a log at a checkpoint and remove the lines behind it.

        Args:
            path: of `log.jsonl`, existing or new.
            step: steps that the checkpoint covers.
            validated: epochs whose validation the checkpoint covers.
            events: written beside the log.

        Raises:
            TrainingError: a line that the checkpoint covers is not JSON.
        """
        self.history = History()
        self._events = events
        if not path.exists():
            write_durably(path, b"")
        kept = self._read(path, step, validated)
        if kept != path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(kept)
                os.fsync(file.fileno())
        self._file: BinaryIO = path.open("ab")

    def _read(self, path: Path, step: int, validated: int) -> int:
        """Take in the lines that a checkpoint covers; return the offset in bytes of their end.

        Lines are written in the order of the checkpoints, so those behind one are the end of the file.
        """
        kept = 0
        try:
            for line, end in _lines(path):
                if not _before(line, step, validated):
                    break
                self.history.add(line)
                kept = end
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}: the line at byte {kept:,} is not one that usjepa-train wrote ({error!r}). Restore the file "
                "from a copy, or delete it to go on with an empty log."
            ) from error
        return kept

    def write(self, line: Line) -> None:
        """Append a line; other processes see it at once, and it is durable after `sync`."""
        self.history.add(line)
        self._file.write((json.dumps(line, allow_nan=False) + "\n").encode())
        self._file.flush()
        if self._events is not None:
            self._events.write(line)

    def sync(self) -> None:
        """Make the lines so far outlive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the events."""
        if self._events is not None:
            self._events.close()
        self._file.close()


def _before(line: Line, step: int, validated: int) -> bool:
    """Return whether a checkpoint of `step` steps and `validated` epochs covers this line."""
    return line["step"] < step if line["kind"] == "step" else line["epoch"] < validated


class Events:
    """Writes lines of the log as TensorBoard scalars `train/*` and `validation/*`, by step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin or resume at a step: TensorBoard then ignores later events of earlier calls.

        Raises:
            UsageError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"train.tensorboard needs the package tensorboard ({error}): pip install 'usjepa[tensorboard]', or "
                "leave it off: log.jsonl and curve.png are always written."
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def write(self, line: Line) -> None:
        """Write the numbers of one line."""
        group = "train" if line["kind"] == "step" else "validation"
        for name, value in line.items():
            if name not in _NOT_SCALARS and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, line["step"])

    def close(self) -> None:
        """Write buffered events and close the file."""
        self._writer.close()
