"""Simulate the layered tissue of a patient, and shapes to put into it.

Levels are dB of diffuse backscatter relative to the patient's deep tissue. `attenuation` is the excess over what TGC
was set for, dB / (cm MHz) one way: soft tissue has 0.5 to 0.7 (Duck, "Physical properties of tissue", 1990), fluid
almost none, so fluid has an excess of about -0.5 and stone of several. Shadows and enhancement follow from it, nothing
is painted. Fluid is never black on a screen: reverberation and side lobes fill it to some 20 to 35 dB under its
surroundings (Lediju et al., "Quantitative assessment of the magnitude, impact and spatial extent of ultrasonic
clutter", Ultrasonic Imaging 30, 2008), which is what makes a small cyst hard to tell from a hypoechoic mass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from usjepa.cache.sources.phantom.physics import Floats, Grid

CLASSES = ("none", "cyst", "hypoechoic", "hyperechoic", "stone")
"""Labels, in the order of their frames."""

_SPAN = 3
"""A patient's tissue is this many images wide; each frame is taken somewhere along it."""
FLUID = -0.45
"""Excess attenuation of fluid, dB / (cm MHz)."""


@dataclass
class Tissue:
    """Maps on the acquisition grid; frames change their own copy."""

    level: Floats
    """[N, L] dB."""
    attenuation: Floats
    """[N, L] excess, dB / (cm MHz)."""
    mirror: Floats
    """[N, L, 2] complex amplitude of coherent echoes from smooth interfaces."""


class Anatomy:
    """One patient's tissue: skin, fat and muscle over an organ, wider than the image."""

    def __init__(self, rng: np.random.Generator, grid: Grid) -> None:
        self._grid = grid
        samples, lines = grid.shape
        wide = lines * _SPAN
        depth: Floats = (np.arange(samples, dtype=np.float32) / np.float32(samples)).astype(np.float32)[:, None]
        level = np.zeros((samples, wide), np.float32)
        mirror = np.zeros((samples, wide), np.float32)
        skin = rng.uniform(0.015, 0.04)
        level[depth[:, 0] < skin] += rng.uniform(4, 10)
        above = np.full(wide, skin, np.float32)
        for _ in range(int(rng.integers(1, 5))):
            below = above + _wave(rng, wide, rng.uniform(0.02, 0.1), rng.uniform(0.004, 0.03))
            layer = (depth >= above) & (depth < below)
            level += layer * (np.float32(rng.uniform(-9, 2)) + _strands(rng, samples, wide, rng.uniform(2, 7)))
            _add_boundary(rng, mirror, below, rng.uniform(3, 14))
            above = below
        level += (depth >= above) * self._organ(rng, samples, wide)
        if rng.random() < 0.5:
            self._add_second_organ(rng, level, mirror, depth)
        if rng.random() < 0.45:
            self._add_far_wall(rng, level, mirror, depth)
        self._level, self._mirror = level, mirror
        self._phase = _carrier(grid)

    def _organ(self, rng: np.random.Generator, samples: int, wide: int) -> Floats:
        """Return the levels of the organ under the layers: texture at three scales, lobes, sometimes muscle fibres."""
        level = _mottle(rng, samples, wide, 10, rng.uniform(0.6, 2.0))
        level += _mottle(rng, samples, wide, 34, rng.uniform(0.5, 2.0))
        lobes = np.tanh(3 * _mottle(rng, samples, wide, 4, 1.0))
        level += np.float32(rng.uniform(0.2, 1.2)) * lobes
        if rng.random() < (0.35 if self._grid.probe.kind == "linear" else 0.1):
            level += _strands(rng, samples, wide, rng.uniform(2, 5))
        return level

    def _add_second_organ(self, rng: np.random.Generator, level: Floats, mirror: Floats, depth: Floats) -> None:
        """Add another organ under the first, of another level, behind an undulating boundary."""
        edge = _wave(rng, level.shape[1], rng.uniform(0.45, 0.75), rng.uniform(0.05, 0.16))
        level += (depth >= edge) * np.float32(rng.uniform(-3, 2))
        _add_boundary(rng, mirror, edge, rng.uniform(2, 12))

    def _add_far_wall(self, rng: np.random.Generator, level: Floats, mirror: Floats, depth: Floats) -> None:
        """Add a bright curved interface low in the image, diaphragm or bone, and what is seen behind it."""
        wall = _wave(rng, level.shape[1], rng.uniform(0.8, 0.93), rng.uniform(0.01, 0.04))
        _add_boundary(rng, mirror, wall, rng.uniform(8, 26))
        level += (depth >= wall) * np.float32(rng.uniform(-16, -3))

    def at(self, rng: np.random.Generator) -> Tissue:
        """Return the tissue under the probe at a random place; half the time the probe is turned around."""
        samples, lines = self._grid.shape
        start = int(rng.integers(0, lines * (_SPAN - 1) + 1))
        level, mirror = (part[:, start : start + lines] for part in (self._level, self._mirror))
        if rng.random() < 0.5:
            level, mirror = level[:, ::-1], mirror[:, ::-1]
        coherent = mirror[..., None] * self._phase
        return Tissue(level.copy(), np.zeros((samples, lines), np.float32), coherent)


def _wave(rng: np.random.Generator, wide: int, mean: float, height: float) -> Floats:
    """Return a smooth random line of the given mean and amplitude, shares of the depth, [wide]."""
    knots = rng.uniform(-1, 1, (1, 5 * _SPAN)).astype(np.float32)
    line = np.asarray(cv2.resize(knots, (wide, 1), interpolation=cv2.INTER_CUBIC), np.float32)[0]
    return np.asarray(np.maximum(mean + height * line, 0.01), np.float32)


def _mottle(rng: np.random.Generator, samples: int, wide: int, cells: int, spread: float) -> Floats:
    """Return smooth random texture of the given standard deviation in dB, `cells` cells down the image."""
    coarse = rng.standard_normal((cells, cells * _SPAN), dtype=np.float32) * np.float32(spread)
    return np.asarray(cv2.resize(coarse, (wide, samples), interpolation=cv2.INTER_CUBIC), np.float32)


def _strands(rng: np.random.Generator, samples: int, wide: int, spread: float) -> Floats:
    """Return streaks along the layers, septa of fat and fascicles of muscle: fine in depth, long across."""
    coarse = rng.standard_normal((max(8, samples // 3), 9 * _SPAN), dtype=np.float32) * np.float32(spread)
    return np.asarray(cv2.resize(coarse, (wide, samples), interpolation=cv2.INTER_CUBIC), np.float32)


def _add_boundary(rng: np.random.Generator, mirror: Floats, line: Floats, strength: float) -> None:
    """Add a reflecting boundary at depths `line` (shares, one per column), strongest where it faces the beam."""
    samples, wide = mirror.shape
    rows = line * samples + 0.7 * _mottle(rng, 1, wide, 40, 1.0)[0]
    slope = np.gradient(line * samples)
    whole = np.clip(0.6 + 0.5 * _mottle(rng, 1, wide, 12, 1.0)[0], 0, 1.5)
    facing = strength * whole * np.exp(-((slope / 0.25) ** 2))
    top = np.floor(rows).astype(np.intp)
    inside = (top >= 0) & (top < samples - 1)
    columns = np.arange(wide)[inside]
    share = (rows - top)[inside]
    # Two samples share the echo, so that the line does not move in whole samples.
    mirror[top[inside], columns] += facing[inside] * (1 - share)
    mirror[top[inside] + 1, columns] += facing[inside] * share


def _carrier(grid: Grid) -> Floats:
    """Return the phase 4 pi z / lambda of an echo from each depth as cosine and sine, [N, 1, 2]."""
    phase = (4 * math.pi / grid.probe.wavelength) * grid.depth.astype(np.float64)
    return np.stack([np.cos(phase), np.sin(phase)], -1)[:, None].astype(np.float32)


@dataclass(frozen=True)
class Blob:
    """An ellipse with a wavy rim, in mm on the grid's plane."""

    x: float
    z: float
    radius: float
    """Geometric mean of the half-axes."""
    aspect: float
    """Long over short half-axis."""
    angle: float
    """Radians, of the long axis."""
    waves: int
    """Lobes of the rim."""
    height: float
    """Their height, share of the radius."""
    phase: float


def draw_blob(rng: np.random.Generator, grid: Grid, radius: float, low: float, high: float, rough: float) -> Blob:
    """Return a blob whose middle lies at a depth between shares `low` and `high`, well inside the lines.

    Args:
        rng: draws place and shape.
        grid: on which it is to lie.
        radius: mm.
        low: least depth of its middle, share of the image's.
        high: greatest.
        rough: greatest height of the rim's waves, share of the radius.
    """
    samples, lines = grid.shape
    row = int(rng.uniform(low, high) * samples)
    line = int(rng.uniform(0.18, 0.82) * lines)
    shape = rng.random(5)
    return Blob(
        float(grid.x[row, line]),
        float(grid.z[row, line]),
        radius,
        1.0 + 0.7 * float(shape[0]),
        math.pi * float(shape[1]),
        2 + int(5 * shape[2]),
        rough * float(shape[3]),
        2 * math.pi * float(shape[4]),
    )


@dataclass(frozen=True)
class Cover:
    """How much of each sample in some rows a blob covers."""

    rows: slice
    share: Floats
    """[rows, L], 0 outside to 1 inside."""
    depth: Floats
    """[rows, L], from -1 at the blob's near side to 1 at its far side."""


def cover(blob: Blob, grid: Grid, softness: float) -> Cover:
    """Return where a blob lies on the grid, with an edge `softness` (share of its radius) wide."""
    reach = blob.radius * math.sqrt(blob.aspect) * (1 + blob.height) * (1 + softness)
    near = np.flatnonzero((np.abs(grid.z - blob.z) < reach).any(1))
    rows = slice(int(near[0]), int(near[-1]) + 1)
    x, z = grid.x[rows] - np.float32(blob.x), grid.z[rows] - np.float32(blob.z)
    stretch = math.sqrt(blob.aspect)
    sine, cosine = math.sin(blob.angle), math.cos(blob.angle)
    u = (x * np.float32(cosine) + z * np.float32(sine)) * np.float32(1 / (blob.radius * stretch))
    v = (z * np.float32(cosine) - x * np.float32(sine)) * np.float32(stretch / blob.radius)
    away, turn = cv2.cartToPolar(u, v)
    rim = 1 + np.float32(blob.height) * np.cos(np.float32(blob.waves) * np.asarray(turn) + np.float32(blob.phase))
    share = np.clip((rim - away) * np.float32(1 / softness) + np.float32(0.5), 0, 1)
    return Cover(rows, share.astype(np.float32), (z * np.float32(1 / blob.radius)).astype(np.float32))
