"""List and open the members of zip and tar archives, without unpacking them."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from usjepa.cache.interrupt import safe_point
from usjepa.cache.plain_files import open_plain, require_plain
from usjepa.cache.sources.formats.plausible import require_room

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
INSIDE = "::"
"""What stands between an archive's path and that of a member."""
_MOST_NBYTES = 1 << 32
"""Of a member: it is held in memory."""
_PIECE_NBYTES = 1 << 20
_ENCRYPTED = 1
"""Bit of a zip member's flags."""


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive."""
    return name.lower().endswith(ENDINGS)


class Archive:
    """An open archive; a context manager."""

    def __init__(self, file: Path) -> None:
        """Open a zip or tar, whatever its ending says; raises OSError, zipfile.BadZipFile or tarfile.TarError."""
        self.file = file
        self._zip = zipfile.ZipFile(file) if zipfile.is_zipfile(file) else None
        self._tar = tarfile.open(file) if self._zip is None else None  # noqa: SIM115  closed with this object

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        for opened in (self._zip, self._tar):
            if opened is not None:
                opened.close()

    def sizes(self) -> dict[str, int]:
        """Return the files in it: path -> bytes; ValueError where a path leads out, or stands there twice."""
        found: dict[str, int] = {}
        for name, nbytes in self._listed():
            safe_point()
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or "\0" in name or INSIDE in name:
                raise ValueError(f"a member is called {name!r}, which leads out of it or can't be named")
            if path.as_posix() in found:
                raise ValueError(f"two members are called {name!r}")
            found[path.as_posix()] = nbytes
        return found

    def _listed(self) -> Iterator[tuple[str, int]]:
        if self._zip is not None:
            yield from ((one.filename, one.file_size) for one in self._zip.infolist() if not one.is_dir())
        elif self._tar is not None:
            yield from ((one.name, one.size) for one in self._tar if one.isreg())

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member; ValueError where it is locked, too large, or more than was claimed."""
        with self._opened(name) as (opened, nbytes):
            require_room(nbytes, self.file)
            if nbytes > _MOST_NBYTES:
                raise ValueError(
                    f"{name} holds {nbytes:,} bytes, at most {_MOST_NBYTES:,} are held in memory; unpack it"
                )
            held = 0
            while piece := opened.read(_PIECE_NBYTES):
                safe_point()
                held += len(piece)
                if held > nbytes:
                    raise ValueError(f"{name} holds more than the {nbytes:,} bytes that it claims")
                yield piece
            if held < nbytes:
                raise ValueError(f"{name} is cut short: it should hold {nbytes:,} bytes and holds {held:,}")

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        if self._zip is not None:
            found = next((one for one in self._zip.infolist() if _is_called(one.filename, name)), None)
            if found is None:
                raise ValueError(f"nothing in it is called {name!r}")
            if found.flag_bits & _ENCRYPTED:
                raise ValueError("it is locked by a password; unpack it")
            with self._zip.open(found) as opened:
                yield cast("BinaryIO", opened), found.file_size
            return
        member = next((one for one in self._tar or () if one.isreg() and _is_called(one.name, name)), None)
        stream = self._tar.extractfile(member) if self._tar is not None and member is not None else None
        if stream is None or member is None:
            raise ValueError(f"nothing in it is called {name!r}")
        with stream:
            yield cast("BinaryIO", stream), member.size


def _is_called(stored: str, name: str) -> bool:
    return stored == name or PurePosixPath(stored.replace("\\", "/")).as_posix() == name


def split_member(path: Path) -> tuple[Path, str] | None:
    """Return (archive, member) of a path that leads into an archive, None for others."""
    head, inside, member = str(path).partition(INSIDE)
    return (Path(head), member.strip("/")) if inside and is_archive(head) else None


def open_list(file: Path) -> BinaryIO:
    """Return a file that lists others, also one in an archive; OSError where it can't be opened."""
    inside = split_member(file)
    if inside is None:
        return io.BufferedReader(open_plain(file))
    require_plain(inside[0])
    try:
        with Archive(inside[0]) as archive:
            return io.BytesIO(b"".join(archive.pieces(inside[1])))
    except (ValueError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise OSError(0, str(error), str(file)) from error


def is_there(file: Path) -> bool:
    """Return whether a path leads to a plain file, or to a member of an archive."""
    inside = split_member(file)
    if inside is None:
        return file.is_file()
    try:
        return inside[1] in _members(inside[0], inside[0].stat().st_mtime_ns)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile, EOFError):
        return False


@lru_cache(maxsize=4)
def _members(archive: Path, _changed: int) -> frozenset[str]:
    with Archive(archive) as opened:
        return frozenset(opened.sizes())
