"""Keep a running scan's counts on disk, so that no file is decoded twice.

The journal has one line of JSON per file, appended and flushed when the file has been counted. A kill leaves at most
one torn line at the end, which is ignored and written again. Only counts are kept: a file that could not be read is
tried again, since the reason may lie outside the file. A line holds for one path, content, reader and reader version.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from usjepa.cache.errors import WriteError
from usjepa.cache.perceptual import HASH_NBYTES
from usjepa.cache.places.digests import digests, last_place, order_of
from usjepa.cache.places.packed import Packed
from usjepa.cache.sources.base import FileFacts, Spacing
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

JOURNAL = "scan/journal.jsonl"
"""Where it lies in a store, while a scan runs."""
Key = tuple[str, str, str, int]
"""(path, content hash, reader, reader version)"""
_KEY_CELLS, _AT_ONCE = 4, 1 << 12
_FACTS = ("frames", "height", "width", "levels")


class KnownFacts(Protocol):
    """What the tables of a store have of its sources."""

    def facts(self, content_hash: str, reader: str, version: int) -> FileFacts | None:
        """Return the facts of a content; None where the tables do not know it."""
        ...


class ScanJournal:
    """The counts of one scan; without a path none are kept.

    Raises WriteError when the file can't be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._facts = Packed(FileFacts, tuple(FileFacts.__dataclass_fields__))
        """Of the lines that an earlier scan has written."""
        self._keys, self._order = digests(()), order_of(digests(()))
        """Their keys, ascending, and which line each is of."""
        self._known: KnownFacts | None = None
        if path is None:
            self._file = None
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._load(path)
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab")
            self._file.truncate(whole)
        except OSError as error:
            raise WriteError(
                f"{path}: the scan's journal can't be written ({error.strerror}). {advice(error)}"
            ) from error

    def __len__(self) -> int:
        return len(self._facts)

    def find(self, key: Key, hashed: bool = False) -> FileFacts | None:
        """Return the facts that an earlier scan counted under the key, or of the same content elsewhere in the store.

        None for neither. With `hashed`, a clip that it counted without its hashes is not found.
        """
        place = int(last_place(self._keys, digests([_text(key)]))[0])
        if place >= 0:
            own = self._facts[int(self._order[place])]
            if not (hashed and own.frames > 1 and own.hashes is None):
                return own
        return None if self._known is None else self._known.facts(*key[1:])

    def learn(self, known: KnownFacts) -> None:
        """Look also into the tables of a store, whatever a source's path there; it is not written again."""
        self._known = known

    def add(self, key: Key, facts: FileFacts) -> None:
        """Write the facts of a file, for a scan that goes on after this one."""
        if self._file is None:
            return
        hashes = facts.hashes.hex() if facts.hashes is not None else None
        cells = [*key, *(getattr(facts, name) for name in _FACTS), facts.spacing, hashes]
        line = json.dumps(cells, ensure_ascii=True)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise WriteError(
                f"{self.path}: the scan's journal can't be written ({error.strerror}). {advice(error)}"
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _refused(self, error: OSError) -> WriteError:
        return WriteError(f"{self.path}: the scan's journal can't be written ({error.strerror}). {advice(error)}")

    def _load(self, path: Path) -> int:
        """Read the lines of an earlier scan; return how many bytes of the file are whole lines."""
        whole, keys = 0, [digests(())]
        if not path.exists():
            return whole
        with path.open("rb") as file:
            for lines in _parts(file):
                found = []
                for line in lines:
                    whole += len(line)
                    try:
                        cells = json.loads(line)
                        key, facts = _key(cells[:_KEY_CELLS]), _facts(*cells[_KEY_CELLS:])
                    except (ValueError, TypeError, RecursionError):
                        continue  # a damaged line costs one more decode, nothing else
                    found.append(_text(key))
                    self._facts.append(facts)
                keys.append(digests(found))
        read = np.concatenate(keys)
        self._order = order_of(read)
        self._keys = read[self._order]
        return whole


def _parts(file: BinaryIO) -> Iterator[list[bytes]]:
    """Yield whole lines, some at a time."""
    while lines := [line for line in islice(file, _AT_ONCE) if line.endswith(b"\n")]:
        yield lines


def _text(key: Key) -> str:
    return "\0".join(map(str, key))


def _facts(
    frames: int, height: int, width: int, levels: int | None, spacing: Sequence[float] | None, hashes: str | None
) -> FileFacts:
    """Return the facts of a line; TypeError where it has others, as one of an older version has."""
    known = None if spacing is None else Spacing(*map(float, spacing))
    bits = None if hashes is None else bytes.fromhex(hashes)
    if bits is not None and len(bits) != frames * HASH_NBYTES:
        raise ValueError("hashes of another number of frames")
    return FileFacts(int(frames), int(height), int(width), None if levels is None else int(levels), known, bits)


def _key(cells: list[object]) -> Key:
    path, content_hash, reader, version = cells
    return str(path), str(content_hash), str(reader), int(str(version))
