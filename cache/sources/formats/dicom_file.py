"""Open a DICOM file at its pixels, and count its frames from the bytes.

Headers lie: about the number of frames, about the transfer syntax, about whether there are pixels at all. So only what
the bytes show is believed: whether the pixel data is in fragments, which codec a fragment begins as, how many frames
there are. Frames stay in the file until they are wanted, so memory does not grow with a clip; only a deflated file is
unpacked as a whole.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, BinaryIO

from usjepa.cache.errors import NoImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_TAGS = (
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *(
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
        for colour in ("Red", "Green", "Blue")
    ),
)
"""All that is read of a header: nothing that names a patient."""
_PIXELS = {
    (0x7FE0, 0x0010): "PixelData",
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
}
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
"""Value representations that pixels are written with; their lengths have 32 bits."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)

_SEQUENTIAL = {
    b"\xff\xc0": "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    b"\xff\xc1": "1.2.840.10008.1.2.4.51",  # JPEG Extended
    b"\xff\xc2": "1.2.840.10008.1.2.4.50",  # progressive, a retired syntax: decoded like Baseline
    b"\xff\xc3": "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    b"\xff\xf7": "1.2.840.10008.1.2.4.80",  # JPEG-LS
}
"""Start-of-frame marker of a JPEG stream -> the transfer syntax that decodes it."""
_JPEG2000, _HTJ2K = "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_VIDEO = "1.2.840.10008.1.2.4.10"
_LABELS = {f"1.2.840.10008.5.1.4.1.1.66.{kind}" for kind in (4, 5, 7)}
"""Segmentations: their samples say what lies where."""


@dataclass
class Opened:
    """The pixels of an open DICOM file."""

    attributes: Dataset
    source: BinaryIO
    """Holds the pixels; the file itself, or what a deflated one holds."""
    keyword: str
    little: bool
    """Whether numbers are stored low byte first."""
    words: bool
    """Whether the pixels are declared as 16-bit words, which swaps bytes of big-endian files."""
    syntax: UID
    """What decodes the pixels."""
    start: int
    length: int
    """Bytes of all frames, where they lie one after the other."""
    parts: list[list[tuple[int, int]]]
    """Of each encapsulated frame, its fragments as (place, bytes); empty where frames are not encapsulated."""

    @property
    def is_video(self) -> bool:
        """Whether all frames are one stream of MPEG-2, MPEG-4 or HEVC."""
        return str(self.syntax).startswith(_VIDEO)

    def encoded(self, frame: int) -> bytes:
        """Return the bytes of an encapsulated frame."""
        data = []
        for place, nbytes in self.parts[frame]:
            self.source.seek(place)
            data.append(self.source.read(nbytes))
        return b"".join(data)

    def __len__(self) -> int:
        """Return the number of frames that the bytes hold; ValueError when they are fewer than the header's."""
        if self.parts:
            return len(self.parts)
        frame, declared = frame_nbytes(self.attributes), _declared_frames(self.attributes)
        count = int(self.length // frame)
        if count < max(declared, 1):
            raise ValueError(_cut_short(self.length, ceil(frame * max(declared, 1)), "pixels"))
        if self.attributes.PhotometricInterpretation == "YBR_FULL_422" and declared > 0:
            whole = ceil(frame * declared / 2 * 3)
            if self.length in (whole, whole + whole % 2):
                raise ValueError("its pixels are not subsampled, though it is labelled YBR_FULL_422")
        return count


def open_pixels(file: BinaryIO) -> Opened:
    """Return the pixels of an open DICOM file.

    Raises:
        NoImageError: it is whole but holds no image: a report, a presentation state, a directory.
        ValueError: it is no DICOM file, or is cut short.
    """
    import pydicom

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
    if header.get("SOPClassUID") in _LABELS:
        raise NoImageError(f"it holds no image but labels: {header.SOPClassUID.name}")
    declared = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if declared == _DEFLATED:
        file.seek(0)
        header = pydicom.dcmread(file, force=True, specific_tags=[*_TAGS, *_PIXELS.values()])
        return _of_deflated(header)
    head = _at_pixels(file, size)
    if head is None:
        raise _imageless(header)
    keyword, little, vr, length = head
    start = file.tell()
    if length == _UNDEFINED:
        parts = _encapsulated(file, header, str(declared or ""), size)
        syntax = _syntax_of(file, parts, str(declared or ""))
        return Opened(header, file, keyword, little, False, syntax, start, 0, parts)
    if start + length > size:
        raise ValueError(_cut_short(size - start, length, "pixels"))
    native = _native(declared, little)
    return Opened(header, file, keyword, little, vr == b"OW", native, start, length, [])


def frame_nbytes(attributes: Dataset) -> float:
    """Return the bytes of a frame that is not encapsulated, in eighths where samples are bits."""
    for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"):
        if attributes.get(name) in (None, "", 0):
            raise ValueError(f"its header has no {name}")
    samples = attributes.Rows * attributes.Columns * attributes.SamplesPerPixel
    nbytes: float = samples * attributes.BitsAllocated / 8
    return nbytes * 2 / 3 if attributes.PhotometricInterpretation == "YBR_FULL_422" else nbytes


def _at_pixels(file: BinaryIO, size: int) -> tuple[str, bool, bytes, int] | None:
    """Read the head of the pixel element; return (keyword, little endian, VR, length), None where there is none."""
    head = file.read(8)
    if len(head) < 8:
        return None
    little = head[:2] == b"\xe0\x7f"
    order = "<" if little else ">"
    keyword = _PIXELS.get(struct.unpack(f"{order}HH", head[:4]))
    if keyword is None:
        return None
    if head[4:6] not in _LONG_VRS:
        return keyword, little, b"", struct.unpack(f"{order}L", head[4:])[0]
    data = file.read(4)
    if len(data) < 4:
        raise ValueError(_cut_short(size, size + 4 - len(data), "header"))
    return keyword, little, head[4:6], struct.unpack(f"{order}L", data)[0]


def _imageless(header: Dataset) -> Exception:
    """Return the error of a file without pixels."""
    from pydicom.uid import UID

    kind = header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
    if header.get("Rows") or (kind and "Image Storage" in UID(kind).name):
        return ValueError("it is cut short: its header announces an image, and there are no pixels")
    if not kind:
        return ValueError("it holds nothing that DICOM files hold")
    return NoImageError(f"it holds no image but: {UID(kind).name}")


def _of_deflated(header: Dataset) -> Opened:
    """Return the pixels of a deflated file, which was read as a whole."""
    from pydicom.uid import ExplicitVRLittleEndian

    keyword = next((keyword for keyword in _PIXELS.values() if keyword in header), None)
    if keyword is None:
        raise _imageless(header)
    data = bytes(header[keyword].value)
    return Opened(header, io.BytesIO(data), keyword, True, False, ExplicitVRLittleEndian, 0, len(data), [])


def _native(declared: str | None, little: bool) -> UID:
    """Return the syntax that decodes pixels that lie one after the other."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if declared == ImplicitVRLittleEndian else ExplicitVRLittleEndian


def _declared_frames(attributes: Dataset) -> int:
    """Return the header's number of frames, 0 where it names none."""
    try:
        return max(int(attributes.get("NumberOfFrames") or 0), 0)
    except (TypeError, ValueError):
        return 0


def _encapsulated(file: BinaryIO, header: Dataset, syntax: str, size: int) -> list[list[tuple[int, int]]]:
    """Return the fragments of each frame as (place, bytes); ValueError where the file ends before its pixels do."""
    declared, fragments, ended = _declared_frames(header), [], False
    for place, nbytes in _fragments(file, size):
        ended = nbytes < 0
        fragments += [(place, nbytes)] if nbytes > 0 else []
    # The first item is a table of offsets, often empty, sometimes wrong: what the fragments hold tells more.
    frames = list(_frames(file, fragments, declared, syntax))
    if not ended and not 0 < declared <= len(frames):
        raise ValueError("it is cut short: its pixels have no end")
    return frames


def _fragments(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Yield the fragments of encapsulated pixels as (place, bytes), and (place, -1) at their end (PS3.5, A.4)."""
    first = True
    while head := file.read(8):
        if len(head) < 8:
            return
        group, element, nbytes = struct.unpack("<HHL", head)
        if (group, element) == _END:
            yield file.tell(), -1
            return
        if (group, element) != _ITEM or nbytes == _UNDEFINED:
            raise ValueError("its compressed pixels are not in fragments as DICOM has them")
        place = file.tell()
        if place + nbytes > size:
            raise ValueError(_cut_short(size - place, nbytes, "last fragment"))
        if not first:
            yield place, nbytes
        first = False
        file.seek(place + nbytes)


def _frames(
    file: BinaryIO, fragments: list[tuple[int, int]], declared: int, syntax: str
) -> Iterator[list[tuple[int, int]]]:
    """Yield the fragments of each frame: a frame begins where a codec's stream begins, else with every fragment."""
    if syntax.startswith(_VIDEO):
        yield fragments
        return
    begins = [_begins(file, place) for place, _ in fragments]
    if not any(begins):
        # RLE has one fragment a frame (PS3.5, A.4.2); of other streams only a single frame can be told apart.
        if declared == 1 and len(fragments) > 1 and not syntax.endswith("1.2.5"):
            yield fragments
        else:
            yield from ([fragment] for fragment in fragments)
        return
    frame: list[tuple[int, int]] = []
    for fragment, new in zip(fragments, begins, strict=True):
        if new and frame:
            yield frame
            frame = []
        frame.append(fragment)
    if frame:
        yield frame


def _begins(file: BinaryIO, place: int) -> bool:
    """Return whether a stream of JPEG or JPEG 2000 begins there."""
    file.seek(place)
    head = file.read(12)
    return head[:3] == b"\xff\xd8\xff" or head[:4] == b"\xff\x4f\xff\x51" or head[4:8] == b"jP  "


def _syntax_of(file: BinaryIO, parts: list[list[tuple[int, int]]], declared: str) -> UID:
    """Return the syntax that decodes encapsulated frames: that of their bytes, where these tell it."""
    from pydicom.uid import UID

    if not parts:
        raise ValueError("it holds no frames")
    place, nbytes = parts[0][0]
    file.seek(place)
    found = _codec(file.read(min(nbytes, 1 << 16)))
    if found is None:
        if declared in ("", *_UNCOMPRESSED):
            raise ValueError("its pixels are compressed, and nothing says how")
        return UID(declared)
    # Syntaxes that one decoder serves are left as they were declared: lossless or not is the file's to say.
    return UID(declared if _serves(declared, found) else found)


def _codec(stream: bytes) -> str | None:
    """Return the syntax whose decoder reads a stream, by its first bytes; None where they don't tell."""
    if stream[:4] == b"\xff\x4f\xff\x51" or stream[4:8] == b"jP  ":
        head = stream[: stream.find(b"\xff\x90") if b"\xff\x90" in stream else len(stream)]
        return _HTJ2K if b"\xff\x50" in head else _JPEG2000  # CAP: part 15 of JPEG 2000
    if stream[:3] != b"\xff\xd8\xff":
        return None
    place = 2
    while place + 4 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place : place + 2]
        if marker in _SEQUENTIAL:
            return _SEQUENTIAL[marker]
        place += 1 if marker == b"\xff\xff" else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def _serves(declared: str, found: str) -> bool:
    """Return whether the decoder of the declared syntax reads streams of the found one."""
    families = (
        {found},
        {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"},
        {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"},
        {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"},
        {"1.2.840.10008.1.2.4.90", _JPEG2000, "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.93"},
        {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", _HTJ2K},
    )
    return any({declared, found} <= family for family in families)


def _cut_short(found: int, wanted: int, what: str) -> str:
    return f"it is cut short: its {what} should hold {wanted:,} bytes and hold {max(found, 0):,}"
