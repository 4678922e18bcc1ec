"""Tell the lit pixels of a frame, or of a clip, from its background.

The background is what the frame's border shows over and over: black, but also dark blue, grey or white. Whatever is not
of such a colour is lit, however dark. In a clip that moves, what is bright and stays is text or a logo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from usjepa.cache.frames.marks import find_marks, largest_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_EDGE = 512
"""Longest edge, pixels, at which colours are compared: speckle is still apart from its surroundings."""
_SMALL = 256
"""Longest edge, pixels, of the result: text is still thin there, and the cost of what follows is bounded."""
_MARK_SHARE = 0.05
"""Coloured pixels that cover less of the frame than this are marks, more are a tint or colour Doppler [paper: 5 %]."""

_MOST_COLOURS = 4
"""Backgrounds of one frame: beside black a bar, a page, a panel."""
_LEAST_SHARE = 0.04
"""Share of the border that a background has at least."""
_NEAR = 6
"""Levels around a background's colour that its noise reaches."""
_BESIDE = 18
"""Levels in which a background stands out: echo is spread over all of them."""
_CALM = 4
"""Largest difference of neighbours, levels, in a background."""
_PALE = 96
"""A background's channels differ by no more; purer colours fill boxes of flow and stiffness, within scans."""
_BRIGHT = 48
"""Echo can have the colour of a background that is brighter, but is not as calm."""

_HALO = 5
"""Pixels at the working size that resizing and codecs smear an edge over."""
_HALO_SHARE = 0.3
"""A pixel beside the background that is darker than this share of the brightest around it is smear."""
_MOVES = 3
"""Difference over a clip, levels, beyond which a pixel moves: codecs repeat what stays."""
_MOSTLY = 0.5
"""A clip moves if more than this share of what is bright does."""
_SPARSE = 4
"""Every fourth pixel, down and across, is enough to tell whether frames are alike."""
_ALIKE = 0.7
"""Correlation with the median frame: of clips 0.78 or more, of frames of mixed sources 0.6 or less."""


class Background(NamedTuple):
    """A colour that the border of a frame shows over and over."""

    colour: tuple[float, ...]
    """Per channel."""
    noise: int
    """Levels around it that belong to it."""


class Look(NamedTuple):
    """One frame at the size at which regions are sought."""

    lit: NDArray[np.uint8]
    """0 or 1, [h, w]."""
    grey: NDArray[np.uint8]
    """[h, w]"""


def look_at(frame: NDArray[np.uint8]) -> Look:
    """Return which pixels of a frame [H, W] or [H, W, 3] RGB are lit, at most 256 pixels wide and high."""
    shown = _shrunk(frame, _EDGE)
    grey = shown if shown.ndim == 2 else np.asarray(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), np.uint8)
    lit = _lit(shown)
    if shown.ndim == 3:
        marks = find_marks(shown)
        if 0 < cv2.countNonZero(marks) < _MARK_SHARE * marks.size:
            # Video codecs smear colour over neighbours: what touches a mark is no echo either.
            lit[cv2.dilate(marks, np.ones((3, 3), np.uint8)) > 0] = 0
    mostly = _shrunk(lit * np.uint8(255), _SMALL) > 127
    return Look(mostly.astype(np.uint8), _shrunk(grey, _SMALL))


def lit_in_clip(looks: Sequence[Look]) -> NDArray[np.uint8]:
    """Return what is lit in any of a clip's frames, 0 or 1 [h, w]; where it moves, without what is bright and stays.

    Text, logos and bars are bright. What is dim and stays is depth that no echo comes back from.
    """
    lit: NDArray[np.uint8] = np.max([look.lit for look in looks], axis=0)
    greys = [look.grey for look in looks]
    brightest, darkest = np.max(greys, axis=0), np.min(greys, axis=0)
    bright = (lit > 0) & (brightest > _BRIGHT)
    stays = bright & (cv2.subtract(brightest, darkest) <= _MOVES)
    if np.count_nonzero(stays) < (1 - _MOSTLY) * np.count_nonzero(bright):
        lit[stays] = 0
    return lit


def is_one_scene(looks: Sequence[Look]) -> bool:
    """Return whether frames show one screen, as those of a clip do, not one image each, as those of a stack may.

    Half of them must resemble the median frame: a fade or a few frames of something else change nothing.
    """
    greys = np.array([look.grey[::_SPARSE, ::_SPARSE].ravel() for look in looks], np.float64)
    greys -= greys.mean(1, keepdims=True)
    typical = np.median(greys, axis=0)
    typical -= typical.mean()
    lengths = np.sqrt((greys**2).sum(1) * (typical**2).sum())
    alike = np.divide(greys @ typical, lengths, out=np.ones(len(greys)), where=lengths > 0)
    return bool(np.median(alike) >= _ALIKE)


def _shrunk(frame: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Return the frame with no edge longer than this."""
    height, width = frame.shape[:2]
    scale = edge / max(height, width)
    if scale >= 1.0:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _lit(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where a pixel has no background's colour, uint8 [h, w]."""
    contrast = _contrast(frame)
    backgrounds = find_backgrounds(frame, contrast)
    if not backgrounds:
        return np.ones(frame.shape[:2], np.uint8)
    dark = np.zeros(frame.shape[:2], np.uint8)
    nearest = np.full(frame.shape[:2], 255, np.uint8)
    for background in backgrounds:
        away = _away(frame, background.colour)
        of_it = _below(away, background.noise)
        if max(background.colour) >= _BRIGHT:
            of_it &= _below(contrast, 2 * background.noise)
        dark |= of_it
        nearest = np.asarray(cv2.min(nearest, away), np.uint8)
    around = np.ones((_HALO, _HALO), np.uint8)
    beside = cv2.dilate(cv2.morphologyEx(dark, cv2.MORPH_OPEN, around), around)
    smear = cv2.compare(nearest, cv2.convertScaleAbs(cv2.dilate(nearest, around), alpha=_HALO_SHARE), cv2.CMP_LT)
    smear = cv2.bitwise_and(np.asarray(beside, np.uint8), np.asarray(smear, np.uint8))
    return np.asarray(1 - cv2.bitwise_or(dark, smear), np.uint8)


def find_backgrounds(frame: NDArray[np.uint8], contrast: NDArray[np.uint8]) -> list[Background]:
    """Return the colours that stand out on the frame's border, the commonest first; none where echo runs out of it.

    Args:
        frame: [h, w] or [h, w, 3].
        contrast: largest difference of each pixel's neighbours, [h, w].
    """
    channels = frame if frame.ndim == 3 else frame[..., None]
    border, around = _border(channels).astype(np.int16), _border(contrast)
    least = _LEAST_SHARE * len(border)
    found: list[Background] = []
    while len(border) >= least and len(found) < _MOST_COLOURS:
        level = border.sum(1)
        calm = around <= _CALM
        if calm.sum() < least:
            break
        commonest = int(np.bincount(level[calm]).argmax())
        colour = np.median(border[calm & (level == commonest)], axis=0)
        away = np.abs(border - colour).max(1)
        near = away <= _NEAR
        beside = any(np.abs(colour - other.colour).max() <= _BESIDE for other in found)
        background = None if beside else _background(colour, away, near & calm, around, bool(found))
        if background is not None and (near & calm).sum() >= least:
            found.append(background)
        border, around = border[~near], around[~near]
    return found


def _background(
    colour: NDArray[np.float64],
    away: NDArray[np.float64],
    calm: NDArray[np.bool_],
    around: NDArray[np.uint8],
    further: bool,
) -> Background | None:
    """Return a colour of the border as a background with its noise, or None where it doesn't stand out."""
    noise = float(away[calm].mean())
    exactly = float((away[calm] <= 1).mean())
    still = float((around[calm] == 0).mean())
    stands_out = np.count_nonzero(away <= _NEAR) > 0.75 * np.count_nonzero(away <= _BESIDE)
    # Dark tissue runs out of frames too: beside the first background, only flat paint counts.
    flat_paint, clear = exactly > 0.9 and still > 0.8, exactly > 0.6 or (stands_out and noise < 2.2)
    is_one = flat_paint if further else clear
    if not is_one or np.ptp(colour) > _PALE:
        return None
    # What no codec touched is exact: a scan may be just one level brighter.
    return Background(tuple(colour.tolist()), 0 if still > 0.98 else 1 + round(3 * noise))


def _contrast(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest difference within 3 x 3 pixels, of any channel, [h, w]."""
    around = np.ones((3, 3), np.uint8)
    return largest_channel(np.asarray(cv2.subtract(cv2.dilate(frame, around), cv2.erode(frame, around)), np.uint8))


def _away(frame: NDArray[np.uint8], colour: tuple[float, ...]) -> NDArray[np.uint8]:
    """Return the distance of each pixel from a colour, that of the channel farthest from it, [h, w]."""
    level = [round(value) for value in colour]
    # In full: OpenCV takes a colour for an image where the frame has as many rows as it has numbers.
    return largest_channel(np.asarray(cv2.absdiff(frame, np.full_like(frame, level)), np.uint8))


def _below(values: NDArray[np.uint8], limit: int) -> NDArray[np.uint8]:
    """Return 1 where a value is at most the limit, else 0."""
    return np.asarray(cv2.threshold(values, limit, 1, cv2.THRESH_BINARY_INV)[1], np.uint8)


def _border(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the outermost pixels, [n] or [n, channels]."""
    return np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
