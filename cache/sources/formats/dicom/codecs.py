"""Decode JPEG of 12 bits and High-Throughput JPEG 2000 for pydicom, through imagecodecs.

Shaped as pydicom wants a plugin: `is_available`, `DECODER_DEPENDENCIES` and a function from a frame's bytes to samples.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_HTJ2K), ("imagecodecs>=2025.3",))


def is_available(uid: str) -> bool:
    """Return whether a transfer syntax is decoded here."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(stream: bytes, runner: Any) -> bytes:
    """Return the samples of an encoded frame; `runner` is pydicom's, and learns how many bits they have."""
    import imagecodecs

    if runner.transfer_syntax in _JPEG:
        if runner.samples_per_pixel != 1:
            raise ValueError("only grey JPEG of 12 bits is decoded")
        if stream.rfind(b"\xff\xd9") < stream.find(b"\xff\xda"):  # the decoder would make up what is missing
            raise ValueError("the stream is cut short")
        samples = imagecodecs.jpeg8_decode(stream)
    else:
        samples = imagecodecs.htj2k_decode(stream)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", samples.dtype.itemsize * 8)
    return bytes(samples.tobytes())


@cache
def add_codecs() -> None:
    """Make pydicom try these decoders after its own; done once a process."""
    from pydicom.pixels.decoders.base import get_decoder

    for uid in DECODER_DEPENDENCIES:
        get_decoder(uid).add_plugin("usjepa", (__name__, "decode_frame"))
