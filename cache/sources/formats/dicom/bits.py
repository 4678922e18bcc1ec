"""Take of stored words the bits that samples have, and refuse samples that have others.

Bits beside those that `BitsStored` and `HighBit` name may hold overlays, which the header tells of, or the sign of a
sample (PS3.5, 8.1.1). Whatever else is in them belongs to samples that the header calls smaller than they are: cut off,
they would wrap around, from bright to dark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.sources.formats.dicom.streams import bits_of, sign_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_PLANES = range(0x60000000, 0x60200000, 0x20000)
"""Groups of overlays (PS3.5, 7.6)."""
_ALLOCATED, _POSITION = 0x100, 0x102
OVERLAYS = tuple(f"{plane + element:08X}" for plane in _PLANES for element in (_ALLOCATED, _POSITION))
"""What of a header `overlay_bits` takes: tags, as one name stands for all planes."""


def overlay_bits(header: Dataset) -> int:
    """Return the bits of a word that hold overlays, as a mask; planes that lie on their own (1 bit) have none."""
    mask = 0
    for plane in _PLANES:
        allocated, position = (_number(header, plane + element) for element in (_ALLOCATED, _POSITION))
        if position is not None and allocated != 1 and 0 <= position < 64:
            mask |= 1 << position
    return mask


def _number(header: Dataset, tag: int) -> int | None:
    """Return an attribute's number; None where there is none, or none that can be read: an overlay is no image."""
    try:
        value = header[tag].value if tag in header else None
    except Exception:  # noqa: BLE001 - pydicom raises any type there is on a length that is wrong
        return None
    return value if isinstance(value, int) else None


def used_bits(samples: NDArray[Any], stored: int, high_bit: int | None, overlays: int) -> NDArray[Any]:
    """Return samples with the bits that they don't use cleared and moved down.

    `high_bit` is the number of the highest bit in use; None where it is the one that the bits stored reach to.

    Raises:
        ValueError: samples use other bits than these, and than those of overlays.
    """
    allocated = samples.dtype.itemsize * 8
    if not 0 < stored < allocated:
        return samples
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    _require_unused(samples, stored, high_bit, overlays)
    above = allocated - 1 - high_bit
    moved: NDArray[Any] = (samples << above) >> (allocated - stored)  # of signed samples the sign comes along
    return moved


def require_one_sign(samples: NDArray[Any], stored: int, stream: bytes) -> None:
    """Raise ValueError where header and stream differ in the sign of samples, and these look as the stream has it.

    Some writers pack signed samples into a stream of unsigned ones, which is read as the header says. But samples that
    the header alone calls signed, or unsigned, would wrap around. Steps from one half of the range to the other show
    which it is: most steps between neighbours are small.
    """
    signed, bits, sign = samples.dtype.kind == "i", bits_of(stream), sign_of(stream)
    if bits is None or sign == signed or (sign is None and not (signed and bits < stored)):
        return  # a stream of JPEG-LS has no sign, the header's counts, but for one that has no bit for it
    whole = 1 << min(bits, stored)
    numbers = samples.astype(np.int64) % whole
    smooth_unsigned = smooth_signed = 0
    for axis in (0, 1):
        steps = np.abs(np.diff(numbers, axis=axis))[np.diff(numbers >= whole // 2, axis=axis)]
        smooth_unsigned += int((steps < whole // 2).sum())
        smooth_signed += int((steps > whole // 2).sum())
    told, other = (smooth_signed, smooth_unsigned) if signed else (smooth_unsigned, smooth_signed)
    if other > told and not (signed and samples.min() >= 0):
        names = ("signed", "unsigned") if signed else ("unsigned", "signed")
        raise ValueError(
            f"its PixelRepresentation calls samples {names[0]}, and they look {names[1]}, as its stream has them: "
            "correct it"
        )


def _require_unused(samples: NDArray[Any], stored: int, high_bit: int, overlays: int) -> None:
    """Raise ValueError where the bits beside those stored hold something that is neither a sign nor an overlay."""
    allocated, low, signed = samples.dtype.itemsize * 8, high_bit + 1 - stored, samples.dtype.kind == "i"
    kept = ((1 << allocated) - 1) & ~overlays
    words = samples.view(f"u{samples.dtype.itemsize}")
    words = words & words.dtype.type(kept)
    remedy = f"its header says BitsStored {stored}, HighBit {high_bit}: correct these"
    above = words >> (high_bit + 1)
    if above.any():
        # Of signed samples either all have their sign in these bits, or none has.
        negative = (words >> high_bit & 1).astype(np.bool_)
        if not signed or (above != np.where(negative, kept >> (high_bit + 1), 0)).any():
            used = int(words.max()).bit_length()
            raise ValueError(f"its samples use {used} bits and would wrap around, as {remedy}")
    outside = samples >> (stored - signed)  # 0, or -1 of a negative one, where they would fit the lowest bits
    if low and (words & ((1 << low) - 1)).any() and not (outside[outside != -1] if signed else outside).any():
        raise ValueError(f"its samples lie in the lowest {stored} bits, and {remedy}")
