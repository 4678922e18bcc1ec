"""List and open the members of zip and tar archives, without unpacking them."""

from __future__ import annotations

import contextlib
import io
import posixpath
import stat
import tarfile
import weakref
import zipfile
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from usjepa.cache.interrupt import safe_point
from usjepa.cache.plain_files import open_plain, require_plain
from usjepa.cache.sources.formats.plausible import require_room

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
INSIDE = "::"
"""What stands between an archive's path and that of a member."""
_MOST_NBYTES = 1 << 32
"""Of a member: it is held in memory."""
_PIECE_NBYTES = 1 << 20
_ZIP = b"PK"
_ENCRYPTED = 1
"""Bit of a zip member's flags."""
_LONGEST_PATH, _MOST_LINKS = 4096, 8
"""Of links: bytes of where one leads to, and how many may follow each other."""


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive."""
    return name.lower().endswith(ENDINGS)


class _Member(NamedTuple):
    """A file, or a link to one, in an archive."""

    nbytes: int
    """Of what a link leads to, where it leads to a file."""
    held: zipfile.ZipInfo | tarfile.TarInfo | None
    """What holds the bytes; None for a link that leads to no file of the archive."""
    target: str
    """Where a link leads to; empty for a file."""


class Archive:
    """An open archive; a context manager."""

    def __init__(self, file: Path) -> None:
        """Open a zip or tar, whatever its ending says; raises OSError, zipfile.BadZipFile or tarfile.TarError."""
        self.file = file
        opened = _archive(file)
        self._zip = opened if isinstance(opened, zipfile.ZipFile) else None
        self._tar = opened if isinstance(opened, tarfile.TarFile) else None
        self.close = weakref.finalize(self, opened.close)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sizes(self) -> dict[str, int]:
        """Return the files in it: path -> bytes; ValueError where a path leads out, or stands there twice."""
        return {path: member.nbytes for path, member in self._members.items()}

    def leads_nowhere(self, name: str) -> bool:
        """Return whether a member is a link to what is no file of the archive."""
        member = self._members.get(name)
        return member is not None and member.held is None

    @cached_property
    def _members(self) -> dict[str, _Member]:
        """Return files and links by path; links are followed within the archive."""
        files: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {}
        links: dict[str, str] = {}
        for name, held, target in self._listed():
            safe_point()
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or "\0" in name or INSIDE in name:
                raise ValueError(f"a member is called {name!r}, which leads out of it or can't be named")
            if path.as_posix() in files or path.as_posix() in links:
                raise ValueError(f"two members are called {name!r}")
            if target is None:
                files[path.as_posix()] = held
            else:
                links[path.as_posix()] = target
        found = {path: _Member(_nbytes(held), held, "") for path, held in files.items()}
        for link, target in links.items():
            leads_to = files.get(_followed(target, links))
            found[link] = _Member(_nbytes(leads_to), leads_to, target)
        return found

    def _listed(self) -> Iterator[tuple[str, zipfile.ZipInfo | tarfile.TarInfo, str | None]]:
        """Yield (name, member, where it leads to, from the archive's root; None for a file)."""
        if self._zip is not None:
            for one in self._zip.infolist():
                if not one.is_dir():
                    yield one.filename, one, self._target_of(one)
        for other in self._tar or ():
            if other.isreg():
                yield other.name, other, None
            elif other.issym():
                yield other.name, other, posixpath.join(posixpath.dirname(other.name), other.linkname)
            elif other.islnk():
                yield other.name, other, other.linkname

    def _target_of(self, member: zipfile.ZipInfo) -> str | None:
        """Return where a link in a zip leads to: its bytes say so; None for a file."""
        if self._zip is None or not stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & _ENCRYPTED:
            return None
        with self._zip.open(member) as opened:
            name = opened.read(_LONGEST_PATH).decode(errors="replace")
        return posixpath.join(posixpath.dirname(member.filename), name)

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
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"nothing in it is called {name!r}")
        if member.held is None:
            raise ValueError(f"{name} is a link to {member.target!r}, which is no file of the archive")
        if isinstance(member.held, zipfile.ZipInfo):
            if member.held.flag_bits & _ENCRYPTED:
                raise ValueError("it is locked by a password; unpack it")
            assert self._zip is not None
            with self._zip.open(member.held) as opened:
                yield cast("BinaryIO", opened), member.nbytes
            return
        stream = self._tar.extractfile(member.held) if self._tar is not None else None
        if stream is None:
            raise ValueError(f"{name} holds no bytes")
        with stream:
            yield cast("BinaryIO", stream), member.nbytes


def _archive(file: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """Return an archive, open, by how it begins: one may end with a member that is a zip itself, such as a table."""
    with file.open("rb") as opened:
        if opened.read(2) == _ZIP:
            return zipfile.ZipFile(file)
    try:
        return tarfile.open(file)
    except tarfile.ReadError:
        if zipfile.is_zipfile(file):  # one that unpacks itself begins with a program
            return zipfile.ZipFile(file)
        raise


def _nbytes(held: zipfile.ZipInfo | tarfile.TarInfo | None) -> int:
    if held is None:
        return 0
    return held.file_size if isinstance(held, zipfile.ZipInfo) else held.size


def _followed(target: str, links: Mapping[str, str]) -> str:
    """Return the path that a link leads to in the end, as far as links can be followed."""
    path = posixpath.normpath(target)
    for _ in range(_MOST_LINKS):
        if path not in links:
            break
        path = posixpath.normpath(links[path])
    return path


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
