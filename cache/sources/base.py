"""Define what a listing names and what the reader of a format promises."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.lazy import lazy
from usjepa.cache.places.packed import Packed, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_FINEST_MM, _COARSEST_MM = 2e-3, 20.0
"""Pixels of ultrasound are of 0.004 to 5 mm; what lies outside is in another unit, such as metres."""
PHANTOM = "phantom"
"""Name of the built-in source, and in tables of what reads it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One source of a listing, not yet read."""

    path: str
    """Relative to the listing's root, POSIX; `FILE::IMAGE` for one of several images in a file."""
    dataset: str
    group: str
    """Patient or clip, unique within its dataset."""
    label: str
    """Empty for none."""
    split: str
    """One of `train`, `val`, `test`, `train_val`; empty for none."""
    reader: str
    """Name of the reader that decodes it."""
    grouped_by: str = field(default="", compare=False)
    """Where the group comes from, for the user; never stored."""
    region: str = field(default="", compare=False)
    """A mask of the scan that comes with the data, relative to the root; empty for none. Part of the content hash."""


def packed_entries(entries: Iterable[Entry] = ()) -> Packed[Entry]:
    """Return entries as a sequence that holds millions of them: a listing may be as long as a store's tables."""
    return Packed(Entry, tuple(Entry.__dataclass_fields__), entries)


@dataclass(frozen=True)
class Listing:
    """All sources of a folder, manifest or file, ordered by the code points of their paths."""

    root: Path | None
    """Folder that the entries' paths are relative to; None for the phantom."""
    entries: Sequence[Entry]
    ignored: int = 0
    """Files that no reader takes; hidden files are not counted."""
    notes: tuple[str, ...] = ()
    """Remarks for the user on how the list came about."""
    named: bool = False
    """Whether the user named every file, so that none is left out for what it looks like."""
    real: Mapping[str, str] = field(default_factory=dict)
    """Alias -> path, where `cache.hash_paths` replaces the paths; never stored."""

    @lazy
    def regions(self) -> dict[str, str]:
        """Path of an entry -> the mask of the scan that comes with it."""
        return {path: region for path, region in fields_of(self.entries, "path", "region") if region}


class Described(NamedTuple):
    """What a container says of an image in it; empty where it says nothing."""

    label: str = ""
    group: str = ""
    split: str = ""


class Contents(NamedTuple):
    """What a container's file holds."""

    images: Sequence[str]
    doubts: Mapping[str, str]
    """Name -> why it is left out unless it is named."""
    described: Mapping[str, Described] = MappingProxyType({})
    """Name -> what the file says of it, for those of which it says something."""


class Spacing(NamedTuple):
    """Edges of a pixel in millimetres: the step from a row to the next, and from a column to the next."""

    down: float
    across: float


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts of one source that a scan finds by decoding it once."""

    frames: int
    """Decoded frames, never the header's count."""
    height: int
    """Pixels, of the first frame; every other frame of the source is as large."""
    width: int
    """Pixels, of the first frame."""
    levels: int | None = field(default=None, compare=False)
    """Grey levels that the first frame has; None: not counted. The caller of `probe` counts them."""
    spacing: Spacing | None = None
    """Of every frame; None where the file does not say."""
    hashes: bytes | None = field(default=None, compare=False)
    """Perceptual hashes of all frames of a clip, one after the other; None: not made. The caller of `survey` does."""


class Box(NamedTuple):
    """A part of a frame, in pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int


class Reader(Protocol):
    """Decode the files of one format. A class of this kind is added with `registry.register` or an entry point.

    A reader is made without arguments, in the process that decodes, and belongs to one thread. It may keep the last
    file open between calls, but must not use it on the other side of a fork. Its methods may raise any exception:
    the caller turns it into a SourceError whose reason is the exception's text, so the text need not name the file.
    A file that gives no frame, and on which `usjepa.cache.interrupt.safe_point` is not called, for
    `cache.decode_timeout` seconds counts as unreadable: call it between the frames that `probe` decodes.
    Every process that lists sources imports the class: import the decoding library inside the methods.
    """

    name: ClassVar[str]
    """Lower case, unique; stored with every source."""
    version: ClassVar[int]
    """Raise it when the reader would count or decode frames differently: then a resumed scan decodes files again."""
    title: ClassVar[str]
    """The format in messages, with its article: "can't be read as TITLE"."""
    endings: ClassVar[tuple[str, ...]]
    """Endings of file names that belong to the format, lower case, with the dot."""
    container: ClassVar[bool] = False
    """Whether a file may hold several images; `images` then names them, and each is a source of its own."""
    folder: ClassVar[bool] = False
    """Whether a folder may be one of its files, as a Zarr store is; `parts` then names what lies in it."""
    frames_apart: ClassVar[bool] = False
    """Whether a frame is read without those before it: several processes may then read parts of one source at once.

    Where not, a build has one process decode a source, in order, and hand its frames on to those that cut rows.
    """
    tells_patient: ClassVar[bool] = False
    """Whether `patient` is worth a call."""

    @classmethod
    def recognises(cls, file: Path) -> bool:
        """Return whether a file whose name has no ending is of this format, from its first bytes."""
        del file
        return False

    def images(self, file: Path) -> Sequence[str]:
        """Return the names of the images in a container's file, in a fixed order; called for containers only."""
        del file
        return ()

    def described(self, file: Path) -> Mapping[str, Described]:
        """Return what a container's file says of its images: name -> label, group and split."""
        del file
        return {}

    def patient(self, file: Path) -> str:
        """Return what the file itself says to tell its patient from others; "" where it says nothing.

        It may be a patient's number: it stays in memory, and nothing but a keyed hash of it is ever stored. Formats
        that can tell set `tells_patient`.
        """
        del file
        return ""

    def doubts(self, file: Path) -> Mapping[str, str]:
        """Return which of `images` hold no ultrasound images (masks, raw signals): name -> why.

        They are left out and told, unless `cache.hdf5` or a manifest names them.
        """
        del file
        return {}

    def parts(self, file: Path) -> Sequence[Path]:
        """Return the other files that a file's content lies in, such as the samples beside a header; each is hashed."""
        del file
        return ()

    def probe(self, file: Path, image: str) -> FileFacts:
        """Decode all frames of a source and return its facts.

        Args:
            file: the file.
            image: a name that `images` gave; empty for formats that are no containers, and for a container without
                images, which must raise.
        """
        ...

    def survey(
        self, file: Path, image: str, look: Callable[[NDArray[np.uint8]], bytes]
    ) -> tuple[FileFacts, list[bytes]]:
        """Return the facts of a source, and what `look` returns of each frame of a clip; of a still it need not look.

        A format whose `probe` has to decode every frame does both at once; for the others this is as good.
        """
        facts, seen = self.probe(file, image), []
        for frame in self.frames(file, image, range(facts.frames if facts.frames > 1 else 0)):
            safe_point()
            seen.append(look(frame))
        return facts, seen

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of a source: uint8 [H, W] grey or [H, W, 3] RGB.

        Args:
            file: the file.
            image: as for `probe`.
            wanted: frame numbers from 0, ascending; a number may be repeated.
        """
        ...

    def boxes(self, file: Path, image: str) -> Sequence[Box]:
        """Return the parts of every frame that the file itself says hold images; none where it says nothing."""
        del file, image
        return ()


def spacing_of(down: float, across: float, measured: bool = False) -> Spacing | None:
    """Return a spacing in millimetres; None for what is no length of a pixel of ultrasound.

    1 x 1 stands for none given, unless it is known to be `measured`: programs write it where they know nothing.
    """
    edges = (down, across)
    if not all(math.isfinite(edge) and _FINEST_MM <= edge <= _COARSEST_MM for edge in edges):
        return None
    return Spacing(down, across) if measured or edges != (1, 1) else None


def over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [H, W, 3]: an [H, W, 4] image laid over black, so that what is transparent holds no echo."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    return ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def levels_of(frame: NDArray[np.uint8]) -> int:
    """Return how many grey levels, or colours of one brightness, a frame [H, W] or [H, W, 3] has."""
    if frame.ndim == 3:
        frame = frame[..., 0] // 4 + frame[..., 1] // 2 + frame[..., 2] // 4
    return int(np.count_nonzero(np.bincount(frame.reshape(-1), minlength=256)))
