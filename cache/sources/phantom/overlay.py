"""Burn text, rulers and marks into the screen around a simulated scan.

Names, dates, settings, a ruler, a grey bar and a manufacturer's mark, some of it coloured. None of it may reach a
store. The words are invented, and the phantom reports their text and pixels, so that tests can prove that none is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.sources.phantom.physics import Kind, Probe

_FAMILIES = ("DOE", "ROE", "SAMPLE", "MUSTER", "NADIE", "OSTROM", "TESTOV", "LOREM")
_GIVEN = ("JANE", "JOHN", "MAX", "ERIKA", "ALEX", "PAT", "KIM", "SAM")
_PLACES = ("GENERAL HOSPITAL", "CITY CLINIC", "DEPT. RADIOLOGY", "EMERGENCY US", "VET SCHOOL")
_PRESETS: dict[Kind, tuple[str, ...]] = {
    "linear": ("Small Parts", "MSK", "Thyroid", "Vascular"),
    "convex": ("Abdomen", "Renal", "OB/GYN"),
    "phased": ("Cardiac", "FAST", "Abdomen"),
}
_INKS = ((235, 235, 235), (190, 190, 190), (255, 220, 60), (90, 230, 110), (110, 190, 255))
"""RGB; the first two are grey, as most text is."""
_FONT = cv2.FONT_HERSHEY_PLAIN


@dataclass(frozen=True)
class ScreenLayout:
    """The scan's place on the screen, and the grey level around it."""

    box: tuple[int, int, int, int]
    """Top, left, height, width of the area that scans are converted into."""
    plain: bool
    """An exported crop without any overlay."""
    background: int
    """Grey level of the empty screen."""


@dataclass(frozen=True)
class Overlay:
    """Everything that is burned in around the scan."""

    image: NDArray[np.uint8]
    """[H, W, 3] RGB, background included."""
    ink: NDArray[np.bool_]
    """[H, W], the pixels of text, rulers and marks."""
    texts: tuple[str, ...]
    """Every line of text, the patient's name first."""


def draw_layout(rng: np.random.Generator, size: int, kind: Kind) -> ScreenLayout:
    """Return a random layout of a square screen of `size` pixels; one in seven is a crop without overlay."""
    sector = kind != "linear"
    if rng.random() < 1 / 7:
        return ScreenLayout((0, 0, size, size), True, 0)
    top, bottom = rng.uniform(0.09, 0.14), rng.uniform(0.055, 0.08)
    # A sector leaves its upper corners free for text, a rectangle needs a margin for it.
    left = rng.uniform(0.01, 0.04) if sector else rng.choice([rng.uniform(0.02, 0.08), rng.uniform(0.2, 0.23)])
    right = rng.uniform(0.05, 0.09) if sector else rng.uniform(0.07, 0.13)
    edges = [round(size * share) for share in (top, left, 1 - top - bottom, 1 - left - right)]
    dark = int(rng.choice([0, 0, 0, 4, 16]))
    return ScreenLayout((edges[0], edges[1], edges[2], edges[3]), False, dark)


def draw_overlay(
    rng: np.random.Generator, layout: ScreenLayout, region: NDArray[np.bool_], probe: Probe, spacing: float
) -> Overlay:
    """Return the screen around a scan.

    Args:
        rng: draws words, inks and which parts appear.
        layout: of the screen.
        region: [H, W], the scan; nothing is drawn on it or its neighbours.
        probe: its settings are printed.
        spacing: mm per pixel, for the ruler.
    """
    size = len(region)
    image = np.full((size, size, 3), layout.background, np.uint8)
    if layout.plain:
        return Overlay(image, np.zeros_like(region), ())
    pen = _Pen(image)
    _write_header(rng, pen, size)
    _write_settings(rng, pen, layout, probe)
    _draw_ruler(rng, pen, layout, spacing)
    if rng.random() < 0.5:
        _draw_grey_bar(pen, layout)
    _draw_mark(rng, pen, layout)
    # The scan is drawn over what stands in its way, and cuts words: the hardest case for a region finder.
    clear = cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    image[clear] = layout.background
    return Overlay(image, (image != layout.background).any(2), tuple(pen.texts))


class _Pen:
    """Draw on a screen and collect the lines of text."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = image
        self.scale = len(image) / 224
        self.texts: list[str] = []

    def write(self, text: str, left: float, base: float, ink: tuple[int, ...], height: float = 0.62) -> None:
        """Write a line from (left, base) in pixels of a screen of 224."""
        at = (round(left * self.scale), round(base * self.scale))
        cv2.putText(self.image, text, at, _FONT, height * self.scale, ink, max(1, round(0.7 * self.scale)), cv2.LINE_AA)
        self.texts.append(text)

    def line(self, start: tuple[float, float], end: tuple[float, float], ink: tuple[int, ...]) -> None:
        """Draw a line between two points (x, y) of the screen itself."""
        ends = [(round(x), round(y)) for x, y in (start, end)]
        cv2.line(self.image, ends[0], ends[1], ink, max(1, round(0.8 * self.scale)))


def _ink(rng: np.random.Generator) -> tuple[int, ...]:
    return _INKS[int(rng.choice(len(_INKS), p=[0.45, 0.25, 0.12, 0.08, 0.1]))]


def _write_header(rng: np.random.Generator, pen: _Pen, size: int) -> None:
    """Write the patient's name, a number, the date and the place along the top."""
    name = f"{rng.choice(_FAMILIES)}, {rng.choice(_GIVEN)}"
    prefix = str(rng.choice(["NAME: ", "", "PATIENT "]))
    ink = _ink(rng)
    pen.write(prefix + name, 3, 8, ink)
    pen.write(f"ID {int(rng.integers(10**6, 10**7))}", 3, 17, ink)
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(2012, 2026))
    pen.write(f"{day:02d}.{month:02d}.{year}", 150, 8, _ink(rng))
    pen.write(str(rng.choice(_PLACES)), 88, 17, _ink(rng), 0.55)


def _write_settings(rng: np.random.Generator, pen: _Pen, layout: ScreenLayout, probe: Probe) -> None:
    """Write the preset, frequency, depth, gain and indices down the left side, or along the bottom."""
    lines = [
        str(rng.choice(_PRESETS[probe.kind])),
        f"{probe.frequency:.1f} MHz",
        f"{probe.depth / 10:.1f} cm",
        f"G {int(rng.integers(30, 80))}",
        f"DR {int(rng.integers(45, 90))}",
        f"MI {rng.uniform(0.4, 1.4):.1f}",
    ]
    ink = _ink(rng)
    if layout.box[1] > 0.19 * len(pen.image) or (probe.kind != "linear" and rng.random() < 0.7):
        start = layout.box[0] / pen.scale + float(rng.uniform(14, 70))
        for number, line in enumerate(lines):
            pen.write(line, 2, start + 9 * number, ink, 0.5)
    else:
        pen.write("  ".join(lines[1:4]), 4, 221, ink, 0.55)


def _draw_ruler(rng: np.random.Generator, pen: _Pen, layout: ScreenLayout, spacing: float) -> None:
    """Draw a tick per centimetre, every fifth one longer, beside the scan."""
    top, left, height, width = layout.box
    ink, x = _ink(rng), left + width + 6 * pen.scale
    step = 10 / spacing
    numbered = bool(rng.random() < 0.5)
    for number in range(int(height / step) + 1):
        length = (5 if number % 5 == 0 else 2.5) * pen.scale
        y = top + number * step
        pen.line((x, y), (x + length, y), ink)
        if numbered and number and number % 5 == 0:
            pen.write(str(number), (x + length) / pen.scale + 1, y / pen.scale + 3, ink, 0.5)


def _draw_grey_bar(pen: _Pen, layout: ScreenLayout) -> None:
    """Draw the grey scale at the right edge."""
    size = len(pen.image)
    width, height = max(2, round(4 * pen.scale)), round(layout.box[2] * 0.35)
    ramp = np.linspace(255, 0, height).astype(np.uint8)
    pen.image[layout.box[0] : layout.box[0] + height, size - 2 * width : size - width] = ramp[:, None, None]


def _draw_mark(rng: np.random.Generator, pen: _Pen, layout: ScreenLayout) -> None:
    """Draw the mark of the probe's orientation, coloured like a manufacturer's logo."""
    top, left, _, width = layout.box
    ink = _INKS[int(rng.integers(2, len(_INKS)))]
    x, y = left + rng.uniform(0.0, 0.12) * width, top + 6 * pen.scale
    cv2.circle(pen.image, (round(x), round(y)), max(2, round(2.5 * pen.scale)), ink, -1, cv2.LINE_AA)
