"""What every reader of sources promises, and what they share: errors that name the file, and checks of frame numbers.

A reader belongs to one thread. It may keep the last file open between calls; what it keeps open belongs to the
process that opened it and is never used on the other side of a fork.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from usjepa.cache.errors import SourceError, UsjepaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class FileFacts:
    """What a scan learns of one source, once."""

    frames: int
    """Decoded frames, never the header's count."""
    height: int
    """Pixels, of the first frame; every other frame of the source is as large."""
    width: int
    """Pixels, of the first frame."""


@dataclass(frozen=True)
class Entry:
    """One source of a listing, not yet read."""

    path: str
    """Relative to the listing's root, POSIX; `file.h5::name` for a dataset within an HDF5 file."""
    dataset: str
    group: str
    """Patient or clip, unique within its dataset."""
    label: str
    """Empty for none."""
    split: str
    """Lower case, empty for none."""
    reader: str
    """Name of the reader that decodes it."""


class Reader(Protocol):
    """Decodes one kind of file."""

    name: str
    version: int
    """Raised when the reader would count or decode frames differently; part of the scan journal's key."""

    def probe(self, path: Path) -> FileFacts:
        """Decode the whole source and return its facts; SourceError when that fails."""
        ...

    def frames(self, path: Path, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames of the ascending numbers `wanted`: [H, W] grey or [H, W, 3] RGB.

        Raises:
            SourceError: a frame can't be decoded.
        """
        ...


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a SourceError that names the file and the reason."""
    try:
        yield
    except UsjepaError:
        raise
    except MemoryError as error:
        raise SourceError(f"{path}: can't be read as {kind}: it asks for too much memory. {_REMEDY}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"{path}: can't be read as {kind}: {reason}. {_REMEDY}") from error
    except Exception as error:  # on hostile bytes, decoders raise any type there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path}: can't be read as {kind}: {reason.rstrip('.')}. {_REMEDY}") from error


_REMEDY = "Replace or remove the file, or leave it out with --on-error skip."


def unreadable(path: Path, kind: str, reason: str) -> SourceError:
    """Return the error for a file that a reader itself finds wanting."""
    remedy = "Replace or remove the file, or leave it out with --on-error skip."
    return SourceError(f"{path}: can't be read as {kind}: {reason}. {remedy}")


def require_ascending(path: Path, wanted: Sequence[int]) -> None:
    """Refuse frame numbers that aren't ascending from 0; readers decode in one direction. Repeats are fine."""
    if any(number < 0 for number in wanted) or any(b < a for a, b in itertools.pairwise(wanted)):
        raise ValueError(f"{path}: frame numbers must ascend from 0, got {list(wanted)[:8]}")


def over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [H, W, 3]: an [H, W, 4] image laid over black, so that what is transparent holds no echo."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    return ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
