"""Read clips (MP4, AVI, MOV, MPEG, MKV, WebM, WMV, GIF) through FFmpeg's libraries.

Frames are numbered as they come out of the decoder, from 0, in the order they are shown. Nothing seeks: headers lie
about counts and times, and a seek lands where an index says. So that a build that walks through a clip in pieces
decodes it once, the decoder of the last file stays open at the frame it has reached.

A clip is shown as a player shows it: turned as its display matrix says, over black where it is transparent. Metadata
are of no concern, whatever their encoding. A clip that was cut short is recognised by its container (`clip_ends.py`).
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import FileFacts, Reader, over_black
from usjepa.cache.sources.formats.clip_ends import cut_short
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import av
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray


_WORDS = dict.fromkeys(("gray16le", "gray16be"), "gray16le") | {
    f"{layout}{order}": "rgb48le"
    for layout in ("rgb48", "bgr48", "rgba64", "bgra64", "gbrp16", "gbrap16")
    for order in ("le", "be")
}
"""Layouts of 16 bits a sample, in which cameras and scanners store 12, and the one that each is read as."""
_IGNORED_ALPHA = {"rawvideo", "bmp"}
"""Codecs whose fourth byte fills up a word; what it holds is left to chance."""


class VideoReader(Reader):
    """Read clips; keep the decoder of the last file open."""

    name = "video"
    version = 2
    title = "a video"
    endings = (".mp4", ".m4v", ".avi", ".mov", ".mpeg", ".mpg", ".mkv", ".webm", ".wmv", ".gif")

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._span: tuple[Path, Span] | None = None

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every frame and return the facts; ValueError when the clip is cut short, damaged, or changes size."""
        del image
        self._span = None
        return _counted(file, lambda _: None)

    def survey(
        self, file: Path, image: str, look: Callable[[NDArray[np.uint8]], bytes]
    ) -> tuple[FileFacts, list[bytes]]:
        """Decode every frame, look at it, and return the facts; raises as `probe`."""
        self._span = None
        seen: list[bytes] = []

        def each(decoder: Decoder) -> None:
            samples = decoder.samples()
            if needs_span(samples.dtype):
                raise _DeepError
            seen.append(look(to_uint8(samples, None)))

        try:
            return _counted(file, each), seen
        except _DeepError:  # how a frame is shown depends on all of them
            return super().survey(file, image, look)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames: [H, W] where the clip is stored in grey, [H, W, 3] otherwise."""
        del image
        for number in wanted:
            decoder = self._decoder_at(file, number)
            decoder.go_to(number)
            samples = decoder.samples()
            yield to_uint8(samples, self._span_of(file) if needs_span(samples.dtype) else None)

    def _span_of(self, file: Path) -> Span:
        """Return the span of the whole clip, remembered for the one that is being read."""
        if self._span is None or self._span[0] != file:
            decoder = Decoder(file)
            try:
                self._span = (file, span_of(decoder.rest()))
            finally:
                decoder.close()
        return self._span[1]

    def _decoder_at(self, file: Path, number: int) -> Decoder:
        """Return a decoder of this file, in this process, that has not gone past the frame."""
        decoder = self._decoder
        if decoder is None or decoder.file != file or decoder.number > number or decoder.pid != os.getpid():
            if decoder is not None:
                decoder.close()
            self._decoder = decoder = Decoder(file)
        return decoder


class _DeepError(Exception):
    """A clip has more than 8 bits a sample."""


def _counted(file: Path, each: Callable[[Decoder], None]) -> FileFacts:
    """Decode every frame of a clip and return the facts; `each` is called after each of them."""
    reason = cut_short(file)
    if reason is not None:
        raise ValueError(reason)
    decoder = Decoder(file)
    try:
        while decoder.advance():
            each(decoder)
    finally:
        decoder.close()
    if decoder.shape is None:
        raise ValueError("it holds no frame that can be decoded")
    return FileFacts(decoder.number + 1, *decoder.shown_shape)


class Decoder:
    """One open clip and the frame its decoder has reached; `number` is -1 before the first."""

    def __init__(self, file: Path | BinaryIO) -> None:
        """Open a clip; of one that another file holds, its bytes."""
        import av

        self.file, self.pid = file, os.getpid()
        self.number = -1
        self.shape: tuple[int, int] | None = None
        """(height, width) as stored."""
        self._frame: VideoFrame | None = None
        self._samples: NDArray[Any] | None = None
        # Titles and comments come in the encoding of whoever typed them; they are not wanted.
        self._container: Any = av.open(str(file) if isinstance(file, Path) else file, metadata_errors="replace")
        try:
            self._frames = self._decode()
        except BaseException:
            self._container.close()
            raise

    def advance(self) -> bool:
        """Decode the next frame; False at the end of the clip."""
        frame = next(self._frames, None)
        if frame is None:
            return False
        shape = (frame.height, frame.width)
        if self.shape is not None and shape != self.shape:
            (height, width), (first_height, first_width) = shape, self.shape
            raise ValueError(
                f"frame {self.number + 1} is {height}x{width} pixels, the first {first_height}x{first_width}"
            )
        self.shape, self._frame, self._samples = shape, frame, None
        self.number += 1
        return True

    def go_to(self, number: int) -> None:
        """Decode up to a frame; ValueError where the clip ends before it."""
        while self.number < number:
            if not self.advance():
                raise ValueError(f"it ends before frame {number} (it has {self.number + 1})")

    @property
    def shown_shape(self) -> tuple[int, int]:
        """(height, width) as shown; a display matrix may lay a clip on its side."""
        if self._frame is None or self.shape is None:
            raise ValueError("it holds no frame that can be decoded")
        transposed, _, _ = _turn(self._frame)
        return (self.shape[1], self.shape[0]) if transposed else self.shape

    def samples(self) -> NDArray[Any]:
        """Return the frame decoded last, 8 or 16 bits; only frames that are wanted are converted to colours."""
        if self._samples is None:
            if self._frame is None:
                raise ValueError("no frame was decoded yet")
            self._samples = _upright(_samples(self._frame, self._codec), self._frame)
        return self._samples

    def rest(self) -> Iterator[NDArray[Any]]:
        """Yield the samples of all further frames."""
        while self.advance():
            yield self.samples()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        """Return an iterator over decoded frames; ValueError at the first that the decoder had to make up."""
        if not self._container.streams.video:
            raise ValueError("it holds no video stream")
        stream = self._container.streams.video[0]
        # No threads of FFmpeg's own: they would not live on in a forked worker, and readers run side by side anyway.
        stream.thread_type = "NONE"
        if stream.codec_context is None:
            raise ValueError("its codec is not one that is read")
        self._codec = stream.codec_context.name
        return self._checked(stream)

    def _checked(self, stream: av.VideoStream) -> Iterator[VideoFrame]:
        for packet in self._container.demux(stream):
            safe_point()
            for frame in self._decoded(packet):
                if frame.is_corrupt or packet.is_corrupt:
                    raise ValueError(f"frame {self.number + 1} is damaged or cut short")
                yield frame
            if packet.is_corrupt:
                raise ValueError(f"it is damaged or cut short after frame {self.number}")

    def _decoded(self, packet: Any) -> list[VideoFrame]:
        """Return the frames of a packet; ValueError where no decoder takes the clip at all."""
        try:
            frames: list[VideoFrame] = packet.decode()
        except (OSError, ValueError) as error:
            if "avcodec_open2" in str(error):
                raise ValueError(f"its codec {self._codec} is stored in a form that is not read") from error
            raise
        return frames


def _samples(frame: VideoFrame, codec: str) -> NDArray[Any]:
    """Return a decoded frame as grey or RGB, with one thread: a fork has none of the scaler's either."""
    layout = frame.format.name
    if layout in _WORDS:
        return np.asarray(frame.to_ndarray(format=_WORDS[layout], threads=1), dtype=np.uint16)
    if layout.startswith("gray"):
        return np.asarray(frame.to_ndarray(format="gray", threads=1), dtype=np.uint8)
    if codec not in _IGNORED_ALPHA and any(component.is_alpha for component in frame.format.components):
        rgba = np.asarray(frame.to_ndarray(format="rgba", threads=1), dtype=np.uint8)
        # Only a GIF is known to mean it when all of a frame is transparent; elsewhere the byte was never written.
        return over_black(rgba) if codec == "gif" or rgba[..., 3].any() else np.ascontiguousarray(rgba[..., :3])
    return np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether a frame is shown transposed, then mirrored top-bottom, then left-right.

    The display matrix maps (x, y) to (a x + c y, b x + d y), in 16.16 fixed point (ISO 14496-12, 6.2.2).
    """
    a, b, c, d = _display_matrix(frame)
    along, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if min(along, across) > 0.02 * max(along, across):
        raise ValueError("it is to be shown turned by an angle that is no multiple of 90 degrees")
    return (False, d < 0, a < 0) if along >= across else (True, b < 0, c < 0)


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """Return a, b, c and d of the display matrix that comes with a frame, on any scale; 1, 0, 0, 1 where none does."""
    try:
        side_data: Any = frame.side_data
        matrix = next((bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # a kind of side data that PyAV has no name for, such as EXIF: the matrix can't be reached
        turn = math.radians(frame.rotation)
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, "<i4" if sys.byteorder == "little" else ">i4")[:5].tolist()
    return a, b, c, d


def _upright(image: NDArray[Any], frame: VideoFrame) -> NDArray[Any]:
    """Return the samples of a frame turned as it is shown."""
    transposed, down, across = _turn(frame)
    image = image.swapaxes(0, 1) if transposed else image
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
