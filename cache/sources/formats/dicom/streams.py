"""Recognise compressed streams by their own bytes: codec, components and bits."""

from __future__ import annotations

_JPEG_FRAMES = {
    b"\xff\xc0": "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    b"\xff\xc1": "1.2.840.10008.1.2.4.51",  # JPEG Extended
    b"\xff\xc2": "1.2.840.10008.1.2.4.50",  # progressive, a retired syntax: decoded like Baseline
    b"\xff\xc3": "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    b"\xff\xf7": "1.2.840.10008.1.2.4.80",  # JPEG-LS
}
"""Start-of-frame marker of a JPEG stream -> the transfer syntax that decodes it."""
_JPEG2000, _HTJ2K = "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"
_MPEG2, _MPEG4 = "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.102"
_VIDEO = "1.2.840.10008.1.2.4.10"
_CODESTREAM = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 codestream begins; in a JP2 file it does so further on."""
_FAMILIES = (
    {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"},
    {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"},
    {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"},
    {"1.2.840.10008.1.2.4.90", _JPEG2000, "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.93"},
    {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", _HTJ2K},
)
"""Syntaxes that one decoder serves: which of them it is, lossless or not, is left to the file to say."""
HEAD_NBYTES = 1 << 16
"""Bytes of a stream that hold what is asked here."""


def begins_image(head: bytes) -> bool:
    """Return whether bytes begin a stream of JPEG or JPEG 2000, so a frame; 12 of them suffice."""
    return head[:3] == b"\xff\xd8\xff" or head[:4] == _CODESTREAM or head[4:8] == b"jP  "


def is_video(syntax: str) -> bool:
    """Return whether a transfer syntax is MPEG-2, MPEG-4 or HEVC: one stream of all frames."""
    return syntax.startswith(_VIDEO) and syntax not in ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.4.109")


def syntax_of(stream: bytes, declared: str) -> str:
    """Return the transfer syntax that decodes a stream: the declared one, unless its bytes tell of another."""
    found = _codec_of(stream)
    if found is None or (is_video(found) and is_video(declared)):
        return declared
    return declared if any({declared, found} <= family for family in _FAMILIES) else found


def components_of(stream: bytes) -> int | None:
    """Return how many components a stream of JPEG or JPEG 2000 has; None where it does not tell."""
    if stream[:3] == b"\xff\xd8\xff":
        place = _frame_header(stream)
        return stream[place + 9] if place is not None and place + 9 < len(stream) else None
    start = stream.find(_CODESTREAM)
    count = stream[start + 40 : start + 42]  # Csiz of the segment SIZ (ISO 15444-1, A.5.1)
    return int.from_bytes(count, "big") if start >= 0 and len(count) == 2 else None


def bits_of(stream: bytes) -> int | None:
    """Return how many bits a sample of a stream of JPEG or JPEG 2000 has; None where it does not tell."""
    if stream[:3] == b"\xff\xd8\xff":
        place = _frame_header(stream)
        return stream[place + 4] if place is not None and place + 4 < len(stream) else None
    start = stream.find(_CODESTREAM)
    bits = stream[start + 42 : start + 43]  # Ssiz of the first component, its highest bit is the sign
    return (bits[0] & 0x7F) + 1 if start >= 0 and bits else None


def sign_of(stream: bytes) -> bool | None:
    """Return whether the samples of a stream of JPEG 2000 are signed; None where a stream does not tell."""
    start = -1 if stream[:3] == b"\xff\xd8\xff" else stream.find(_CODESTREAM, 0, HEAD_NBYTES)
    bits = stream[start + 42 : start + 43]
    return bool(bits[0] & 0x80) if start >= 0 and bits else None


def gives_rgb(stream: bytes) -> bool:
    """Return whether a stream of JPEG 2000 undoes the transform of its colours itself (ISO 15444-1, A.6.1: SGcod)."""
    start = stream.find(_CODESTREAM)
    style = stream.find(b"\xff\x52", start) if start >= 0 else -1
    return style >= 0 and stream[style + 8 : style + 9] == b"\1"


def _codec_of(stream: bytes) -> str | None:
    """Return a syntax whose decoder reads a stream, by its first bytes; None where they don't tell."""
    if stream[:4] == _CODESTREAM or stream[4:8] == b"jP  ":
        tile = stream.find(b"\xff\x90")
        return _HTJ2K if b"\xff\x50" in stream[: tile if tile >= 0 else None] else _JPEG2000  # CAP, of part 15
    if stream[:4] in (b"\0\0\1\xba", b"\0\0\1\xb3"):
        return _MPEG2
    if stream[4:8] == b"ftyp":
        return _MPEG4
    place = _frame_header(stream) if stream[:3] == b"\xff\xd8\xff" else None
    return None if place is None else _JPEG_FRAMES[stream[place : place + 2]]


def _frame_header(stream: bytes) -> int | None:
    """Return where the header of a JPEG stream's frame begins."""
    place = 2
    while place + 4 <= len(stream) and stream[place] == 0xFF:
        if stream[place : place + 2] in _JPEG_FRAMES:
            return place
        filled = stream[place + 1] == 0xFF
        place += 1 if filled else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None
