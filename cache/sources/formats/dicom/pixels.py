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
from usjepa.cache.sources.formats.dicom.bits import OVERLAYS
from usjepa.cache.sources.formats.dicom.fragments import Place, cut_short, encapsulated_frames, head_of
from usjepa.cache.sources.formats.dicom.header import LONG_VRS, without_head
from usjepa.cache.sources.formats.dicom.polarity import AS_STORED, NEEDED, Greys
from usjepa.cache.sources.formats.dicom.streams import (
    begins_image,
    bits_of,
    components_of,
    gives_rgb,
    is_video,
    syntax_of,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TAGS = (
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *NEEDED,
    *OVERLAYS,
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
_UNDEFINED = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
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
    syntax: str
    """The transfer syntax that decodes the pixels."""
    start: int
    length: int
    """Bytes of all frames, where they lie one after the other."""
    parts: list[list[Place]]
    """Of each encapsulated frame, its fragments; empty where frames are not encapsulated."""
    components: int | None = None
    """Samples of a pixel that the stream of the first frame has; None where it does not tell."""
    gives_rgb: bool = False
    """Whether that stream gives RGB, whatever the header says."""
    bits: int | None = None
    """Bits of a sample in that stream; None where it does not tell."""
    greys: Greys = AS_STORED
    """How the grey samples of the frame that was decoded last are shown."""

    @property
    def is_video(self) -> bool:
        """Whether all frames are one stream of MPEG-2, MPEG-4 or HEVC."""
        return is_video(self.syntax)

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
            raise ValueError(cut_short(self.length, ceil(frame * max(declared, 1)), "pixels"))
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
    try:
        return _opened(file)
    except NoImageError:
        raise
    except Exception as error:  # pydicom raises any type there is on what is not encoded as it was told
        bare = without_head(file)
        if bare is None:
            raise
        try:
            return _opened(bare)
        except NoImageError:
            raise
        except Exception as second:
            raise error from second  # what is wrong with it as it stands


def _opened(file: BinaryIO) -> Opened:
    """Return the pixels of a file, read in the encoding that its head names; without a head, pydicom guesses it."""
    import pydicom

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
    if header.get("SOPClassUID") in _LABELS:
        raise NoImageError(f"it holds no image but labels: {header.SOPClassUID.name}")
    declared = str((header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None) or "")
    if declared == _DEFLATED:
        file.seek(0)
        header = pydicom.dcmread(file, force=True, specific_tags=[*_TAGS, *_PIXELS.values()])
        return _of_deflated(header)
    head = _at_pixels(file, size)
    if head is None:
        raise _imageless(header)
    keyword, little, vr, length = head
    start = file.tell()
    if length != _UNDEFINED and start + length > size:
        raise ValueError(cut_short(size - start, length, "pixels"))
    if length == _UNDEFINED:
        parts = encapsulated_frames(file, _declared_frames(header), declared, size)
    elif begins_image(head_of(file, [(start, min(length, 12))])):
        parts = [[(start, length)]]  # a lone stream that nobody wrapped
    else:
        return Opened(header, file, keyword, little, vr == b"OW", _native(declared, little), start, length, [])
    stream = head_of(file, parts[0])
    syntax = syntax_of(stream, declared)
    if syntax in ("", _IMPLICIT, _EXPLICIT, _BIG):
        raise ValueError("its pixels are compressed, and nothing says how")
    return Opened(
        *(header, file, keyword, little, False, syntax, start, 0, parts),
        components=components_of(stream),
        gives_rgb=gives_rgb(stream),
        bits=bits_of(stream),
    )


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
    if head[4:6] not in LONG_VRS:
        return keyword, little, b"", struct.unpack(f"{order}L", head[4:])[0]
    data = file.read(4)
    if len(data) < 4:
        raise ValueError(cut_short(size, size + 4 - len(data), "header"))
    return keyword, little, head[4:6], struct.unpack(f"{order}L", data)[0]


def _imageless(header: Dataset) -> Exception:
    """Return the error of a file without pixels."""
    from pydicom.uid import UID

    kind = header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
    if header.get("Rows") or (kind and "Image Storage" in UID(kind).name):
        return ValueError("it is cut short: its header announces an image, and there are no pixels")
    if not kind or UID(kind).name == kind:
        return ValueError(f"it holds no pixels, and its kind is {f'{kind}, which is private' if kind else 'not told'}")
    return NoImageError(f"it holds no image but: {UID(kind).name}")


def _of_deflated(header: Dataset) -> Opened:
    """Return the pixels of a deflated file, which was read as a whole."""
    keyword = next((keyword for keyword in _PIXELS.values() if keyword in header), None)
    if keyword is None:
        raise _imageless(header)
    data = bytes(header[keyword].value)
    return Opened(header, io.BytesIO(data), keyword, True, False, _EXPLICIT, 0, len(data), [])


def _native(declared: str, little: bool) -> str:
    """Return the syntax that decodes pixels that lie one after the other."""
    if not little:
        return _BIG
    return _IMPLICIT if declared == _IMPLICIT else _EXPLICIT


def _declared_frames(attributes: Dataset) -> int:
    """Return the header's number of frames, 0 where it names none."""
    try:
        return max(int(attributes.get("NumberOfFrames") or 0), 0)
    except (TypeError, ValueError):
        return 0
