"""Read DICOM, single and multi-frame: uncompressed, deflated, RLE, all kinds of JPEG, and encapsulated video.

pydicom decodes, one frame at a time. YBR becomes RGB, palettes are looked up, what is stored with white as 0 is
inverted (`polarity.py`), deeper samples follow `depth.py`. Nothing but pixels and their size in millimetres leaves the
reader: no name, date or number of a patient is even parsed.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Box, FileFacts, Reader
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8
from usjepa.cache.sources.formats.dicom.bits import overlay_bits, require_one_sign, used_bits
from usjepa.cache.sources.formats.dicom.boxes import boxes_of
from usjepa.cache.sources.formats.dicom.codecs import add_codecs
from usjepa.cache.sources.formats.dicom.palette import colours_of
from usjepa.cache.sources.formats.dicom.patient import patient_of
from usjepa.cache.sources.formats.dicom.pixels import Opened, frame_nbytes, open_pixels
from usjepa.cache.sources.formats.dicom.polarity import greys_by_frame
from usjepa.cache.sources.formats.dicom.scale import spacing_in
from usjepa.cache.sources.formats.plausible import require_frame
from usjepa.cache.sources.formats.video import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_MAGIC_AT = 128
"""Bytes before the letters DICM (PS3.10, 7.1)."""
_EARLY = {(group, element) for group in (2, 8) for element in (0, 1, 5, 8, 16, 18, 20, 22)}
"""Elements that files without a preamble begin with."""
_JPEG = "1.2.840.10008.1.2.4."
_READ = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_RLE = "1.2.840.10008.1.2.5"
_LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_IN_JPEG = ("YBR_PARTIAL_422", "YBR_PARTIAL_420")
"""Retired names that old writers give to the YCbCr of JPEG files, which has but one kind."""


class DicomReader(Reader):
    """Read DICOM files."""

    name = "dicom"
    version = 5
    title = "DICOM"
    endings = (".dcm", ".dicom")
    tells_patient = True
    frames_apart = True

    def __init__(self) -> None:
        import pydicom.config

        # Files that break the letter of the standard are common and readable; and the warnings that pydicom would
        # print otherwise quote the values they complain about.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        add_codecs()
        self._span: tuple[Path, Span] | None = None

    @classmethod
    def recognises(cls, file: Path) -> bool:
        """Return whether a file begins as DICOM files do, with or without a preamble; a DICOMDIR is no image."""
        if file.name.lower() == "dicomdir":
            return False
        try:
            with file.open("rb") as opened:
                head = opened.read(_MAGIC_AT + 4)
        except OSError:
            return False  # nothing suggests that it is an image
        return head[_MAGIC_AT:] == b"DICM" or _begins_bare(head)

    def patient(self, file: Path) -> str:
        """Return the patient, or else the study, that the header names."""
        return patient_of(file)

    def boxes(self, file: Path, image: str = "") -> Sequence[Box]:
        """Return the regions of 2D images that the header names (Sequence of Ultrasound Regions, PS3.3 C.8.5.5)."""
        del image
        return boxes_of(file)

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every frame and return the facts; NoImageError or ValueError when the file holds no image."""
        self._span = None
        count = 0
        shape: tuple[int, int] | None = None
        for frame, _ in _stored(file, None):
            shape, count = shape or frame.shape[:2], count + 1
        if shape is None:
            raise ValueError("it holds no frames")
        return FileFacts(count, *shape, spacing=spacing_in(file, *shape))

    def survey(
        self, file: Path, image: str, look: Callable[[NDArray[np.uint8]], bytes]
    ) -> tuple[FileFacts, list[bytes]]:
        """Decode every frame, look at it, and return the facts; raises as `probe`."""
        self._span = None
        seen: list[bytes] = []
        shape: tuple[int, int] | None = None
        for frame, opened in _stored(file, None):
            if _is_deep(frame, opened):  # how it is shown depends on all of them
                return super().survey(file, image, look)
            shape = shape or frame.shape[:2]
            seen.append(look(_shown(frame, opened, None)))
        if shape is None:
            raise ValueError("it holds no frames")
        return FileFacts(len(seen), *shape, spacing=spacing_in(file, *shape)), seen

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        del image
        for frame, opened in _stored(file, wanted):
            yield _shown(frame, opened, self._span_of(file) if _is_deep(frame, opened) else None)

    def _span_of(self, file: Path) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != file:
            self._span = (file, span_of(_intensities(file)))
        return self._span[1]


def _begins_bare(head: bytes) -> bool:
    """Return whether bytes begin with an element of a header: its tag, then letters of a kind or a small length."""
    if len(head) < 12:
        return False
    for order in ("<", ">"):
        group, element, length = struct.unpack(f"{order}HHL", head[:8])
        if (group, element) in _EARLY and (head[4:6].isalpha() or length <= 64):
            return True
    return False


def _stored(file: Path, wanted: Sequence[int] | None) -> Iterator[tuple[NDArray[Any], Opened]]:
    """Yield frames as stored, palettes not looked up, and the file; all frames when `wanted` is None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, which may quote the file
        with file.open("rb") as source:
            opened = open_pixels(source)
            require_frame(int(opened.attributes.get("Rows") or 0), int(opened.attributes.get("Columns") or 0))
            if opened.is_video:
                yield from ((frame, opened) for frame in _video(opened, wanted))
                return
            options = _options(opened)
            greys = greys_by_frame(opened.attributes, opened.little, len(opened))
            for number in range(len(opened)) if wanted is None else wanted:
                safe_point()
                frame = _decoded(opened, options, number)
                opened.greys = greys[number] if len(greys) > 1 else greys[0]
                yield frame, opened


def _video(opened: Opened, wanted: Sequence[int] | None) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of an encapsulated stream; ValueError where it ends before one that is wanted."""
    decoder = Decoder(io.BytesIO(opened.encoded(0)))
    try:
        if wanted is None:
            while decoder.advance():
                yield to_uint8(decoder.samples(), None)
            return
        for number in wanted:
            decoder.go_to(number)
            yield to_uint8(decoder.samples(), None)
    finally:
        decoder.close()


def _options(opened: Opened) -> dict[str, Any]:
    """Return what pydicom needs to know of a file's frames, with what its header leaves out or names wrongly."""
    from pydicom.pixels.utils import as_pixel_options

    header = opened.attributes
    photometric = str(header.get("PhotometricInterpretation") or "").strip().upper()
    if opened.components in (1, 3) and opened.components != header.get("SamplesPerPixel"):
        header.SamplesPerPixel = opened.components
        colour = "YBR_FULL_422" if opened.syntax in _LOSSY_JPEG else "RGB"
        photometric = colour if opened.components == 3 else "MONOCHROME2"
    _widen(header, opened.bits)
    if photometric in _IN_JPEG and opened.syntax.startswith(_JPEG):
        photometric = "YBR_FULL_422"
    if opened.gives_rgb and photometric.startswith("YBR_FULL"):
        photometric = "YBR_RCT"
    if photometric not in _READ:
        raise ValueError(f"its photometric interpretation is {photometric or 'not given'}, which is not read")
    header.PhotometricInterpretation = photometric
    options = as_pixel_options(header, pixel_keyword=opened.keyword, number_of_frames=1)
    options.setdefault("pixel_representation", 0)
    options.setdefault("planar_configuration", 0)
    options.setdefault("bits_stored", options.get("bits_allocated"))
    if not opened.parts:
        options.update(number_of_frames=len(opened), pixel_vr="OW" if opened.words else "OB")
        frame_nbytes(header)
    return options


def _widen(header: Dataset, bits: int | None) -> None:
    """Let a header have as many bits as the samples of its streams, whose upper ones would be cut off.

    Streams of whole bytes are left alone where they fit: writers pack fewer bits, signed ones too, into such.
    """
    stored, allocated = (int(header.get(name) or 0) for name in ("BitsStored", "BitsAllocated"))
    if bits is not None and bits > stored > 0 and (bits > allocated or bits % 8):
        header.BitsStored, header.HighBit = bits, bits - 1
        header.BitsAllocated = max(allocated, 16 if bits <= 16 else 32)


def _decoded(opened: Opened, options: dict[str, Any], number: int) -> NDArray[Any]:
    """Return a frame as stored, in the machine's byte order, bits that hold overlays cleared."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if number >= len(opened):
        raise ValueError(f"it has {len(opened)} frames, none with number {number}")
    try:
        decoder: Any = get_decoder(UID(opened.syntax))
    except NotImplementedError as error:
        raise ValueError(f"its transfer syntax is {UID(opened.syntax).name}, which is not read") from error
    stream, high_bit = b"", None
    if opened.parts:
        # One frame at a time, wrapped anew: the tables of offsets that files carry are not needed.
        stream = opened.encoded(number)
        source: BinaryIO = io.BytesIO(encapsulate([stream], has_bot=False))
        index = 0
    else:
        source, index = opened.source, number
        source.seek(opened.start)
    if not opened.parts or opened.syntax == _RLE:
        high_bit = opened.attributes.get("HighBit")
    try:
        decoded, _ = decoder.as_array(source, index=index, correct_unused_bits=False, **options)
    except ValueError as error:
        if "reshape" not in str(error) and "broadcast" not in str(error):
            raise
        size = f"{options['rows']}x{options['columns']}x{options['samples_per_pixel']}"
        raise ValueError(f"frame {number} does not decode to the {size} samples that its header names") from error
    samples: NDArray[Any] = decoded.astype(decoded.dtype.newbyteorder("="), copy=False)
    if options.get("bits_allocated") == 1 or samples.dtype.kind not in "iu":
        return samples
    stored = options["bits_stored"]
    samples = used_bits(samples, stored, high_bit, overlay_bits(opened.attributes))
    if opened.syntax.startswith(_JPEG):
        require_one_sign(samples, stored, stream)
    return samples


def _intensities(file: Path) -> Iterator[NDArray[Any]]:
    """Yield the samples of each frame that are no padding; nothing of a frame that is nothing else."""
    for frame, opened in _stored(file, None):
        padding = opened.greys.is_padding(frame)
        if padding is None or not padding.all():
            yield frame if padding is None else frame[~padding]


def _is_deep(frame: NDArray[Any], opened: Opened) -> bool:
    return opened.attributes.get("PhotometricInterpretation") != "PALETTE COLOR" and needs_span(frame.dtype)


def _shown(frame: NDArray[Any], opened: Opened, span: Span | None) -> NDArray[np.uint8]:
    """Return a stored frame as a viewer without window or level would show it."""
    if opened.is_video:
        return frame
    header = opened.attributes
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return colours_of(frame, header, opened.little)
    if header.get("BitsStored") == 1:
        frame = frame.astype(np.bool_)
    padding = opened.greys.is_padding(frame)
    if padding is not None and span is not None:
        frame = np.where(padding, frame.dtype.type(span.low), frame)
    shown = to_uint8(frame, span)
    if opened.greys.inverted:
        shown = np.asarray(255 - shown, dtype=np.uint8)
    return shown if padding is None else np.where(padding, np.uint8(0), shown)
