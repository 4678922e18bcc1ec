"""Name the source in whatever goes wrong while a reader reads it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from usjepa.cache.errors import NoImageError, SourceError, UsjepaError
from usjepa.cache.plain_files import require_plain
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.sources.registry import join_path, reader_named
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_REMEDY = "Replace or remove the file, or leave it out with --on-error skip."


@contextlib.contextmanager
def naming(path: str, file: Path, image: str, title: str) -> Iterator[None]:
    """Turn whatever a reader raises into a SourceError that names the source by its path, and the reason."""
    path = shown_name(path)
    try:
        yield
    except NoImageError as error:
        raise NoImageError(f"{path}: {_renamed(_reason(error), path, file, image)}") from error
    except SourceError as error:
        raise SourceError(_renamed(str(error), path, file, image)) from error
    except UsjepaError:
        raise
    except Exception as error:  # on hostile bytes, decoders raise any type there is
        reason = _renamed(_reason(error), path, file, image)
        raise SourceError(f"{path}: can't be read as {title}: {reason.rstrip('.')}. {_REMEDY}") from error


def refuse_odd(file: Path, stamp: str) -> None:
    """Refuse what a decoder would wait for, or read without end; the phantom has no files."""
    name = name_of(stamp)
    if name != PHANTOM and not (getattr(reader_named(name), "folder", False) and file.is_dir()):
        require_plain(file)


def checked(frame: NDArray[np.uint8] | None, number: int | None) -> NDArray[np.uint8]:
    """Return a frame that a reader gave; ValueError where it is not what a reader promises to give."""
    if frame is None:
        raise ValueError(f"its reader gave no frame {number}")
    if number is None:
        raise ValueError("its reader gave more frames than wanted")
    if frame.dtype != "uint8" or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise ValueError(
            f"frame {number} is {frame.dtype} {list(frame.shape)}, where a reader gives uint8 [H, W] or [H, W, 3]"
        )
    return frame


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, FileNotFoundError) and error.filename and os.path.islink(error.filename):
        return "it is a link to a file that is not there; fetch it first (git annex get, datalad get, git lfs pull)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _renamed(text: str, path: str, file: Path, image: str) -> str:
    """Return a decoder's text with the place of the file replaced by the source's path, which may be an alias."""
    return text.replace(join_path(str(file), image), path).replace(str(file), path)
