"""Write a run's log so that no line is lost, changed or repeated unseen.

Every line carries its own sum (`lines.py`), and every checkpoint marks the log's length and hash. A resumed run goes on
with a copy of what its checkpoint covers: a process that was stopped and overtaken appends to the old file, which
nobody reads. Where the log is not as it was marked, `salvage.py` writes again what can be.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.storage.durable import explained, new_file, write_all
from usjepa.cache.storage.protocol import Guard, unguarded
from usjepa.train.record.history import History
from usjepa.train.record.lines import from_text, to_text
from usjepa.train.record.salvage import Covered, salvage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from usjepa.train.record.lines import Line
    from usjepa.train.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_PIECE = 1 << 18


@dataclass(frozen=True)
class LogMark:
    """The log as a checkpoint found it."""

    bytes: int
    xxh3_128: str
    """Of its first `bytes` bytes, 32 hex digits."""


def read_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a log, in order; nothing if there is none. A last line that was cut off is left out.

    Lines of earlier versions carry no sum; in one log either all lines do or none.

    Raises:
        DamageError: a line is not as usjepa-train wrote it; its number and place are named.
    """
    if not path.exists():
        return
    place = 0
    all_proved: bool | None = None
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            try:
                line, proved = from_text(text)
                if all_proved not in (None, proved):
                    raise ValueError(
                        "it has no sum, and others do" if all_proved else "it has a sum, and others do not"
                    )
            except ValueError as error:
                raise DamageError(
                    f"{path}: line {number} (byte {place:,}) is not as usjepa-train wrote it ({error}). The same "
                    "usjepa-train command mends the file and names what is lost; without the file, reports have no "
                    "loss curve."
                ) from error
            all_proved, place = proved, place + len(text)
            yield line


class RunLog:
    """Appends to a log, and summarises it in `history`."""

    def __init__(
        self,
        path: Path,
        covered: Covered,
        mark: LogMark | None = None,
        guard: Guard = unguarded,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Open a log at a checkpoint; what lies behind it is removed with the first line that is written.

        Args:
            path: of `log.jsonl`, existing or new.
            covered: steps and epochs of the checkpoint, and its history.
            mark: of the checkpoint; None: it is of a version that marked no log.
            guard: called before anything is written; may raise.
            trackers: shown each line too.

        Raises:
            WriteError: the folder can't take the file.
        """
        self._path, self._covered, self._guard, self._trackers = path, covered, guard, trackers
        self._file: BinaryIO | None = None
        self._bytes, self._hash = 0, xxhash.xxh3_128()
        self.history = History()
        self.mended = False
        """Whether the log was not whole and was written again."""
        if mark is None or covered.history is None:
            self._adopt()
        elif self._is_whole(path, mark):
            self.history = covered.history
        else:
            with self._source(path) as source:
                self._mend(source, covered.history)

    def write(self, line: Line) -> None:
        """Append a line; other processes see it at once, and it is durable after `sync`."""
        self._guard()
        file, text = self._opened(), to_text(line)
        with explained(self._path, len(text)):
            write_all(file.fileno(), memoryview(text))
        self._hash.update(text)
        self._bytes += len(text)
        self.history.add(line)
        for tracker in self._trackers:
            tracker.write((line,))

    def sync(self, thorough: bool = False) -> LogMark:
        """Make the lines so far outlive a power cut, and return their mark.

        A log that was removed, replaced or cut while this process wrote to it is written again. `thorough` also reads
        all of it, so that a changed byte is noticed.
        """
        self._guard()
        file = self._opened()
        if not self._is_mine(file) or (thorough and not self._is_whole(self._path, self._mark)):
            file = self._restored(file)
        with explained(self._path, 0):
            os.fsync(file.fileno())
        return self._mark

    def show(self, tracker: Tracker) -> None:
        """Let a tracker have each line from now on."""
        self._trackers = (*self._trackers, tracker)

    def close(self) -> None:
        """Close the file and the events."""
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            self._file.close()

    @property
    def _mark(self) -> LogMark:
        return LogMark(self._bytes, self._hash.hexdigest())

    def _adopt(self) -> None:
        """Take over the lines of a version that marked no log, if there are any; each gets its sum."""
        if self._path.exists() or self._covered.step:
            with self._source(self._path) as source:
                self._mend(source, None)

    def _opened(self) -> BinaryIO:
        """Return the file to append to: a copy of this process's own, made at the first use."""
        if self._file is None:
            with self._source(self._path) as source:
                self._file = self._copied(source)
        return self._file

    def _copied(self, source: BinaryIO) -> BinaryIO:
        """Publish a copy of what is the log's of a file, and return it, to append to."""
        with new_file(self._path, self._bytes, self._guard) as handle:
            for piece in _pieces(source, self._bytes):
                write_all(handle, memoryview(piece))
        # Readable too: what it holds can be written again if its name is removed.
        return self._path.open("a+b", buffering=0)

    def _is_mine(self, file: BinaryIO) -> bool:
        """Return whether the name still leads to the file that is written, with the length that was written."""
        own = os.fstat(file.fileno())
        try:
            named = self._path.stat()
        except OSError:
            return False
        return os.path.samestat(own, named) and own.st_size == self._bytes

    def _is_whole(self, path: Path, mark: LogMark) -> bool:
        """Return whether the log begins with what was marked; the hash then goes on from there."""
        with self._source(path) as source:
            found = self._hashed(source, mark.bytes)
        if found is None or found.hexdigest() != mark.xxh3_128:
            return False
        self._bytes, self._hash = mark.bytes, found
        return True

    def _hashed(self, source: BinaryIO, length: int) -> Any:
        """Return the running hash of the first bytes of a file; None where it has fewer."""
        hasher, left = xxhash.xxh3_128(), length
        for piece in _pieces(source, length):
            hasher.update(piece)
            left -= len(piece)
        return None if left else hasher

    def _restored(self, file: BinaryIO) -> BinaryIO:
        """Write the log again from the open file, which outlives its name; what is lost there too is named."""
        with os.fdopen(os.dup(file.fileno()), "rb") as source:
            found = self._hashed(source, self._bytes)
            if found is not None and found.hexdigest() == self._hash.hexdigest():
                self._file = self._copied(source)
                logger.warning(f"{self._path}: was removed or changed while this run wrote to it; it is whole again.")
            else:
                done, per_epoch = self.history, self._covered.steps_per_epoch
                self._covered = Covered(done.steps, len(done.checks), done, per_epoch)
                self._mend(source, self.history)
        file.close()
        return self._opened()

    def _mend(self, source: BinaryIO, history: History | None) -> None:
        """Write the log again from its whole lines and the history."""
        rebuilt, hasher, length = History(), xxhash.xxh3_128(), 0
        with new_file(self._path, 0, self._guard) as handle:

            def take(line: Line) -> None:
                nonlocal length
                text = to_text(line)
                write_all(handle, memoryview(text))
                hasher.update(text)
                length += len(text)
                rebuilt.add(line)

            found = salvage(source, self._covered, take)
        self.history = history or rebuilt
        self._bytes, self._hash, self.mended = length, hasher, True
        self._file = self._path.open("a+b", buffering=0)
        found.report(self._path, marked=history is not None)

    def _source(self, path: Path) -> BinaryIO:
        """Return the log for reading; an empty file where there is none."""
        try:
            return path.open("rb", buffering=_PIECE)
        except FileNotFoundError:
            return open(os.devnull, "rb")


def _pieces(source: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the first bytes of a file, piece by piece; fewer where it ends."""
    source.seek(0)
    while length and (piece := source.read(min(_PIECE, length))):
        length -= len(piece)
        yield piece
