"""Corrupt frames as ultrasound is corrupted in life, at three strengths.

Blur, contrast and speckle follow the paper (arXiv 2602.19322, robustness); the size of its speckle's smoothing is not
given there. The others are ours, in decibels on a display of 60 dB. Only the scan is touched: pixels outside the region
stay as they are, except that blur and JPEG act on the whole frame, as they do in life. All noise is a pure function of
(corruption, strength, row). Lengths are pixels of the stored frame.

Shape suffixes: C channels, S edge of the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.randomness import keyed_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import Corruption

    Bytes = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float32]

CORRUPTIONS_VERSION = 1
"""Raised when a corruption would give other pixels."""

STRENGTHS = (1, 2, 3)
_DISPLAY_DB = 60.0
"""Dynamic range that 0 to 255 shows: a common setting of scanners."""

_CONTRAST_KEPT = {1: 0.7, 2: 0.5, 3: 0.3}
"""alpha of the paper."""
_GAIN_DB = {1: 6.0, 2: 12.0, 3: 18.0}
_ATTENUATION_DB = {1: 10.0, 2: 20.0, 3: 30.0}
"""Lost from the region's top to its lowest row."""
_SHADOW_WIDTH = {1: 0.15, 2: 0.3, 3: 0.45}
"""Of the region's width."""
_SHADOW_LEFT = 0.1
"""Share of intensity left in the middle of a shadow."""
_JPEG_QUALITY = {1: 30, 2: 15, 3: 7}

MEANING = {
    "blur": "Gaussian blur, sigma 1, 2, 3 pixels",
    "contrast": "contrast toward the region's median, 70, 50, 30 % kept",
    "speckle": "multiplicative noise, standard deviation 0.35, 0.7, 1.05, grain 0.5, 1, 1.5 pixels",
    "gain": "gain too high by 6, 12, 18 dB",
    "attenuation": "depth compensation too low, 10, 20, 30 dB lost at the lowest row",
    "shadow": "an acoustic shadow over 15, 30, 45 % of the region's width",
    "jpeg": "JPEG of quality 30, 15, 7",
}


def corrupt(frame_CSS: Bytes, region_SS: Mask, name: Corruption, strength: int, row: int) -> Bytes:
    """Return a corrupted copy of a stored frame, uint8 [C, S, S].

    Args:
        frame_CSS: the frame as it is stored.
        region_SS: where it holds echo.
        name: which corruption.
        strength: 1, 2 or 3.
        row: the frame's row in its store: what noise is drawn from.
    """
    if name == "blur":
        return _blur(frame_CSS, strength)
    if name == "jpeg":
        return _jpeg(frame_CSS, _JPEG_QUALITY[strength])
    if not region_SS.any():
        return frame_CSS.copy()
    changed = _WITHIN[name](frame_CSS.astype(np.float32), region_SS, strength, _noise(name, strength, row))
    return np.where(region_SS, np.clip(np.rint(changed), 0, 255).astype(np.uint8), frame_CSS)


def _noise(name: str, strength: int, row: int) -> np.random.Generator:
    number = int.from_bytes(name.encode()[:7].ljust(7, b"\0"), "little")
    return keyed_generator(number * 4 + strength, row)


def _blur(frame_CSS: Bytes, strength: int) -> Bytes:
    kernel = 2 * (2 * strength) + 1  # 2 * floor(2 eps) + 1
    return np.stack([cv2.GaussianBlur(plane, (kernel, kernel), float(strength)) for plane in frame_CSS])


def _jpeg(frame_CSS: Bytes, quality: int) -> Bytes:
    grey = len(frame_CSS) == 1
    image = frame_CSS[0] if grey else np.ascontiguousarray(frame_CSS.transpose(1, 2, 0)[:, :, ::-1])
    done, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    back = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    assert back is not None
    planes = back[None] if grey else back[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(planes, np.uint8)


def _contrast(frame: Floats, region: Mask, strength: int, _: np.random.Generator) -> Floats:
    median = np.median(frame[:, region], axis=1).astype(np.float32)[:, None, None]
    return median + _CONTRAST_KEPT[strength] * (frame - median)


def _speckle(frame: Floats, region: Mask, strength: int, noise: np.random.Generator) -> Floats:
    """I (1 + eta), eta ~ N(0, (0.35 eps)^2), smoothed over eps / 2 pixels and brought back to that deviation.

    Without the last step smoothing would undo the growth of the noise: all three strengths would be equally strong.
    """
    grains = noise.standard_normal(region.shape).astype(np.float32)
    eta = np.asarray(cv2.GaussianBlur(grains, (0, 0), strength / 2), np.float32)
    return np.asarray(frame * (1 + 0.35 * strength * eta / eta.std()), np.float32)


def _gain(frame: Floats, _: Mask, strength: int, __: np.random.Generator) -> Floats:
    return frame + np.float32(255 * _GAIN_DB[strength] / _DISPLAY_DB)


def _attenuation(frame: Floats, region: Mask, strength: int, _: np.random.Generator) -> Floats:
    rows = np.flatnonzero(region.any(axis=1))
    depth = (np.arange(len(region)) - rows[0]) / max(1, rows[-1] - rows[0])
    lost = 255 * _ATTENUATION_DB[strength] / _DISPLAY_DB * np.clip(depth, 0, 1)
    return np.asarray(frame - lost[:, None], np.float32)


def _shadow(frame: Floats, region: Mask, strength: int, noise: np.random.Generator) -> Floats:
    """Darken a band of columns from a random depth down, with soft edges; anywhere within the region."""
    columns, rows = np.flatnonzero(region.any(axis=0)), np.flatnonzero(region.any(axis=1))
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    middle = columns[0] + width * noise.uniform(0.2, 0.8)
    top = rows[0] + height * noise.uniform(0.1, 0.4)
    half, soft = _SHADOW_WIDTH[strength] * width / 2, max(1.0, 0.03 * width)
    across = 1 / (1 + np.exp((np.abs(np.arange(region.shape[1]) - middle) - half) / soft))
    down = 1 / (1 + np.exp(-(np.arange(region.shape[0]) - top) / soft))
    left = 1 - (1 - _SHADOW_LEFT) * across[None] * down[:, None]
    return np.asarray(frame * left, np.float32)


_WITHIN: dict[str, Callable[[Floats, Mask, int, np.random.Generator], Floats]] = {
    "contrast": _contrast,
    "speckle": _speckle,
    "gain": _gain,
    "attenuation": _attenuation,
    "shadow": _shadow,
}
