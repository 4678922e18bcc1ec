"""Read clips (MP4, AVI, MOV, MPEG, GIF) through FFmpeg's libraries.

Frames are numbered as they come out of the decoder, from 0, in the order they are shown. Nothing seeks: headers lie
about counts and times, and a seek lands where an index says. So that a build that walks through a clip in pieces
decodes it once, the decoder of the last file stays open at the frame it has reached.

A clip that was cut short is recognised by the length that its container declares. Decoders don't notice: they return
the frames that are there and stop, or fill the rest of the last one with the frame before. Frame counts of headers
don't help, since they are wrong in whole files too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from usjepa.cache.sources.base import FileFacts, Reader, over_black

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import av
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray


class VideoReader(Reader):
    """Read clips; keep the decoder of the last file open."""

    name = "video"
    version = 1
    title = "a video"
    endings = (".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".gif")

    def __init__(self) -> None:
        self._decoder: _Decoder | None = None

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every frame and return the facts; ValueError when the clip is cut short, damaged, or changes size."""
        del image
        reason = _cut_short(file)
        if reason is not None:
            raise ValueError(reason)
        decoder = _Decoder(file)
        try:
            while decoder.advance():
                pass
        finally:
            decoder.close()
        if decoder.shape is None:
            raise ValueError("it holds no frame that can be decoded")
        return FileFacts(decoder.number + 1, *decoder.shape)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames: [H, W] where the clip is stored in grey, [H, W, 3] otherwise."""
        del image
        for number in wanted:
            decoder = self._decoder_at(file, number)
            while decoder.number < number:
                if not decoder.advance():
                    raise ValueError(f"it ends before frame {number} (it has {decoder.number + 1})")
            yield decoder.pixels()

    def _decoder_at(self, file: Path, number: int) -> _Decoder:
        """Return a decoder of this file, in this process, that has not gone past the frame."""
        decoder = self._decoder
        if decoder is None or decoder.file != file or decoder.number > number or decoder.pid != os.getpid():
            if decoder is not None:
                decoder.close()
            self._decoder = decoder = _Decoder(file)
        return decoder


class _Decoder:
    """One open clip and the frame its decoder has reached; `number` is -1 before the first."""

    def __init__(self, file: Path) -> None:
        import av

        self.file, self.pid = file, os.getpid()
        self.number = -1
        self.shape: tuple[int, int] | None = None
        self._frame: VideoFrame | None = None
        self._pixels: NDArray[np.uint8] | None = None
        self._container = av.open(str(file))
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
        self.shape, self._frame, self._pixels = shape, frame, None
        self.number += 1
        return True

    def pixels(self) -> NDArray[np.uint8]:
        """Return the frame that was decoded last; only frames that are wanted are converted to colours."""
        if self._pixels is None:
            if self._frame is None:
                raise ValueError("no frame was decoded yet")
            self._pixels = _pixels(self._frame)
        return self._pixels

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
        return self._checked(stream)

    def _checked(self, stream: av.VideoStream) -> Iterator[VideoFrame]:
        for packet in self._container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise ValueError(f"frame {self.number + 1} is damaged or cut short")
                yield frame
            if packet.is_corrupt:
                raise ValueError(f"it is damaged or cut short after frame {self.number}")


def _pixels(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a decoded frame as grey or RGB, with one thread: a fork has none of the scaler's either."""
    layout = frame.format.name
    if layout.startswith("gray"):
        return np.asarray(frame.to_ndarray(format="gray", threads=1), dtype=np.uint8)
    if any(component.is_alpha for component in frame.format.components):
        return over_black(np.asarray(frame.to_ndarray(format="rgba", threads=1), dtype=np.uint8))
    return np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)


def _cut_short(file: Path) -> str | None:
    """Return why the file can't be whole, None when nothing speaks against it."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(12)
        if head[4:8] == b"ftyp":
            return _boxes_past_the_end(opened, size)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little") + 8
            return _shortfall(declared, size) if declared > size else None
        if head[:3] == b"GIF":
            return _lacks_gif_trailer(opened, size)
    return None


def _shortfall(declared: int, size: int) -> str:
    return f"it is cut short: it should hold {declared:,} bytes and holds {size:,}"


def _boxes_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the top-level boxes of an MP4 or MOV file (ISO 14496-12: 4 bytes size, 4 bytes type)."""
    start = 0
    kinds = set()
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # the size did not fit: it stands in the 8 bytes after the type
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # the box reaches to the end of the file
            length = size - start
        if length < 8:
            return None  # no box: trailing bytes, which players ignore
        if start + length > size:
            return _shortfall(start + length, size)
        kinds.add(header[4:8])
        start += length
    return None if b"moov" in kinds else "it is cut short: it holds no table of its frames (no moov box)"


def _lacks_gif_trailer(file: BinaryIO, size: int) -> str | None:
    """Look for the byte 0x3B that ends a GIF; some writers pad behind it with zeros."""
    file.seek(max(0, size - 4096))
    tail = file.read().rstrip(b"\0")
    return None if tail.endswith(b"\x3b") else "it is cut short: the byte that ends a GIF is missing"
