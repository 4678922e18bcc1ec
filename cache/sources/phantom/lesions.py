"""Add a labelled lesion and unlabelled distractors to the tissue of one frame.

Every frame draws its distractors from the same law whatever its label: vessels look like small cysts, bright foci like
small hyperechoic masses, gas and lost contact throw shadows without a stone. So no single cue gives the label away.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.sources.phantom.tissue import FLUID, Tissue, cover, draw_blob

if TYPE_CHECKING:
    from usjepa.cache.sources.phantom.physics import Floats, Grid

_SMALLEST, _LARGEST = 0.13, 0.25
"""Radius of a lesion as a share of the image's depth; a stone is two thirds as large."""
_PRECISION = 0.1
"""Share of the radius over which a rim fades."""


def add_lesion(rng: np.random.Generator, tissue: Tissue, grid: Grid, label: str) -> None:
    """Put the lesion of a label into the tissue, of random place, size and contrast; `none` changes nothing."""
    # Drawn for every label, so that labels differ in nothing but the lesion.
    radius = grid.probe.depth * float(rng.uniform(_SMALLEST, _LARGEST))
    strength, loss, rough = rng.random(3).tolist()
    if label == "cyst":
        _add_mass(rng, tissue, grid, radius, -25 - 9 * strength, FLUID, 0.05)
    elif label == "hypoechoic":
        _add_mass(rng, tissue, grid, radius, -8 - 7 * strength, 0.7 * loss + 0.1, 0.12 + 0.2 * rough)
    elif label == "hyperechoic":
        _add_mass(rng, tissue, grid, radius, 8 + 7 * strength, 0.2 * loss - 0.1, 0.05 + 0.15 * rough)
    elif label == "stone":
        _add_stone(rng, tissue, grid, 0.65 * radius, 12 + 14 * strength, 20 + 20 * loss)


def _add_mass(
    rng: np.random.Generator, tissue: Tissue, grid: Grid, radius: float, level: float, attenuation: float, rough: float
) -> None:
    """Add a blob `level` dB over its surroundings; fluid (a level under -20) replaces what was there."""
    at = cover(draw_blob(rng, grid, radius, 0.28, 0.78, rough), grid, _PRECISION)
    if level < -20:
        tissue.level[at.rows] += at.share * (np.float32(level) - tissue.level[at.rows])
    else:
        tissue.level[at.rows] += at.share * np.float32(level)
    tissue.mirror[at.rows] *= (1 - at.share)[..., None]
    tissue.attenuation[at.rows] += at.share * np.float32(attenuation)


def _add_stone(
    rng: np.random.Generator, tissue: Tissue, grid: Grid, radius: float, level: float, shadow: float
) -> None:
    """Add a stone: its near side echoes `level` dB over tissue, and what passes has lost `shadow` dB."""
    at = cover(draw_blob(rng, grid, radius, 0.28, 0.78, 0.15), grid, 0.3)
    bright = at.share * np.clip(0.55 - at.depth, 0, 1)
    tissue.level[at.rows] += bright * np.float32(level)
    tissue.attenuation[at.rows] += at.share * np.float32(_alpha(grid, shadow, 2 * radius))


def add_distractors(rng: np.random.Generator, tissue: Tissue, grid: Grid) -> None:
    """Add vessels, bright foci, gas that shadows a little, and lost contact; each may be absent."""
    depth = grid.probe.depth
    for _ in range(int(rng.integers(0, 3))):
        _add_vessel(rng, tissue, grid, depth * float(rng.uniform(0.012, 0.04)))
    for _ in range(int(rng.integers(0, 3))):
        at = cover(draw_blob(rng, grid, depth * float(rng.uniform(0.006, 0.022)), 0.12, 0.9, 0.2), grid, 0.5)
        tissue.level[at.rows] += at.share * np.float32(rng.uniform(5, 16))
    if rng.random() < 0.3:
        _add_gas(rng, tissue, grid, depth * float(rng.uniform(0.015, 0.05)))
    if rng.random() < 0.12:
        tissue.attenuation[0] += _lost_contact(rng, grid)


def _add_vessel(rng: np.random.Generator, tissue: Tissue, grid: Grid, radius: float) -> None:
    """Add a vessel, cut across or along: fluid with a thin echoing wall."""
    blob = draw_blob(rng, grid, radius, 0.15, 0.9, 0.0)
    long = 1.0 + 7.0 * float(rng.random()) ** 2
    blob = replace(blob, aspect=long)
    outer, level = cover(blob, grid, 0.5), float(rng.uniform(-24, -12))
    wall = np.clip(4 * outer.share * (1 - outer.share), 0, 1) * np.float32(rng.uniform(0, 7))
    tissue.level[outer.rows] += outer.share * np.float32(level) + wall
    tissue.attenuation[outer.rows] += outer.share * np.float32(FLUID)


def _add_gas(rng: np.random.Generator, tissue: Tissue, grid: Grid, radius: float) -> None:
    """Add a streak of gas or a calcified plaque: bright, with a partial, ragged shadow."""
    blob = draw_blob(rng, grid, radius, 0.1, 0.6, 0.4)
    at = cover(blob, grid, 0.6)
    tissue.level[at.rows] += at.share * np.float32(rng.uniform(6, 16))
    tissue.attenuation[at.rows] += at.share * np.float32(_alpha(grid, float(rng.uniform(3, 14)), 2 * radius))


def _lost_contact(rng: np.random.Generator, grid: Grid) -> Floats:
    """Return the attenuation in the first sample of each line [L] where the probe's edge or a hair is off the skin."""
    lines = grid.shape[1]
    across = np.linspace(0, 1, lines, dtype=np.float32)
    middle = rng.choice([0.0, 1.0, rng.uniform(0.1, 0.9)])
    width = rng.uniform(0.05, 0.2)
    dark = np.clip(1.5 - np.abs(across - middle) / width, 0, 1)
    return np.asarray(dark * _alpha(grid, float(rng.uniform(5, 20)), grid.step), np.float32)


def _alpha(grid: Grid, loss: float, length: float) -> float:
    """Return the attenuation in dB / (cm MHz) that loses `loss` dB two-way over `length` mm."""
    return loss / (2 * grid.probe.frequency * length / 10)
