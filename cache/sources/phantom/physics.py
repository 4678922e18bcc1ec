"""Simulate a scanner: probe and grid, point spread function, echo, compression, scan conversion.

A frame is simulated on the grid on which it would be acquired (samples down each scan line, lines across) and then
converted to screen pixels. The model:

* Scatterers: far more than ten in a resolution cell, so their sum before the aperture is a white circular complex
  Gaussian field, and the envelope is Rayleigh: fully developed speckle (Wagner et al., "Statistics of speckle in
  ultrasound B-scans", IEEE Trans. Sonics Ultrason. 30(3), 1983). The field is complex baseband: the carrier only turns
  the phase of what is already uniformly random. Smooth interfaces reflect coherently; there the carrier is kept, as a
  phase of 4 pi z / lambda.
* Point spread function, separable: an axial Gaussian pulse of a few cycles, FWHM cycles x lambda / 2 (two-way), and a
  lateral Gaussian, FWHM lambda F# sqrt(1 + ((z - focus) / zone)^2), a beam that widens away from its focus (Szabo,
  "Diagnostic ultrasound imaging: inside out", ch. 6). Kernels have unit energy: diffuse speckle keeps its brightness
  where the beam is wide, while single reflectors smear and dim, as they do on a scanner.
* Attenuation: dB proportional to frequency and depth, two-way; gain over depth (TGC) undoes an assumed one, so what
  attenuates less than the tissue around it leaves enhancement behind it, what attenuates more leaves a shadow.
* Electronic noise enters after the tissue and is raised by TGC alone: it fills the depths and shadows.

Left out: refraction, multiple reflections between layers, non-linear propagation, elevational focus, motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kind = Literal["linear", "convex", "phased"]

_SPEED_MM_US = 1.54
"""Speed of sound in soft tissue, mm per microsecond."""
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a Gaussian, in standard deviations."""
_STEP = 1.12
"""Rows whose lateral widths differ by less than this factor share a kernel; the step can't be seen in speckle."""


@dataclass(frozen=True)
class Probe:
    """A transducer and its settings, fixed for a patient."""

    kind: Kind
    frequency: float
    """MHz."""
    depth: float
    """mm of tissue shown."""
    half_width: float
    """mm from the middle to the edge of a linear array; radians from the middle line to the edge of a sector."""
    radius: float
    """mm from the sector's apex to the probe's face; unused by a linear array."""
    cycles: float
    """Length of the pulse."""
    f_number: float
    """Focal depth over aperture."""
    focus: float
    """mm, transmit focus."""
    zone: float
    """mm from the focus to where the beam is sqrt(2) times as wide."""

    @property
    def wavelength(self) -> float:
        """Return the wavelength in mm."""
        return _SPEED_MM_US / self.frequency


@dataclass(frozen=True)
class Grid:
    """The acquisition grid of a probe: N samples down, L lines across."""

    probe: Probe
    x: Floats
    """[N, L] mm, right of the middle."""
    z: Floats
    """[N, L] mm, below the middle of the probe's face."""
    depth: Floats
    """[N] mm from the probe's face along a line."""
    step: float
    """mm between samples."""
    sigma: Floats
    """[N] lateral standard deviation of the beam, in lines."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, L)."""
        return self.x.shape[0], self.x.shape[1]


def make_grid(probe: Probe, samples: int, lines: int) -> Grid:
    """Return the grid of `samples` x `lines` points that the probe acquires."""
    step = probe.depth / samples
    depth = ((np.arange(samples) + 0.5) * step).astype(np.float32)
    across = np.linspace(-probe.half_width, probe.half_width, lines, dtype=np.float32)
    if probe.kind == "linear":
        x, z = np.broadcast_to(across, (samples, lines)), np.broadcast_to(depth[:, None], (samples, lines))
        pitch = np.full(samples, across[1] - across[0])
    else:
        reach = (probe.radius + depth)[:, None]
        x, z = reach * np.sin(across), reach * np.cos(across) - probe.radius
        pitch = reach[:, 0] * (across[1] - across[0])
    width = probe.wavelength * probe.f_number * np.sqrt(1.0 + ((depth - probe.focus) / probe.zone) ** 2)
    sigma = (width / _FWHM / pitch).astype(np.float32)
    # A beam wider than an eighth of the image occurs only within millimetres of a phased array, where lines converge.
    sigma = np.clip(sigma, 0.3, lines / 8).astype(np.float32)
    return Grid(probe, x.astype(np.float32), z.astype(np.float32), depth, step, sigma)


class Beam:
    """The point spread function on a grid, as kernels made once."""

    def __init__(self, grid: Grid) -> None:
        probe = grid.probe
        self._axial = _kernel(probe.cycles * probe.wavelength / 2 / _FWHM / grid.step)
        self._bands = [(rows, _kernel(sigma), sigma) for rows, sigma in _bands(grid.sigma)]

    def blur(self, field_NL2: Floats) -> Floats:
        """Return a complex field [N, L, 2] convolved with the point spread function; unit energy."""
        pulsed = self.pulse(field_NL2)
        seen = np.empty_like(pulsed)
        for rows, kernel, _ in self._bands:
            seen[rows] = cv2.sepFilter2D(pulsed[rows], -1, kernel, _ONE, borderType=cv2.BORDER_REFLECT)
        return seen

    def pulse(self, field_NL2: Floats) -> Floats:
        """Return a field [N, L, 2] convolved with the pulse alone: what the receiver's filter does to noise."""
        return _floats(cv2.sepFilter2D(field_NL2, -1, _ONE, self._axial, borderType=cv2.BORDER_REFLECT))

    def spread(self, loss_NL: Floats) -> Floats:
        """Return a map of dB averaged over the beam's width: a shadow has a penumbra."""
        spread = np.empty_like(loss_NL)
        for rows, kernel, _ in self._bands:
            spread[rows] = cv2.sepFilter2D(
                loss_NL[rows], -1, kernel / kernel.sum(), _ONE, borderType=cv2.BORDER_REFLECT
            )
        return spread


def _kernel(sigma: float) -> Floats:
    """Return a Gaussian of unit energy (sum of squares 1), cut at three standard deviations."""
    half = max(1, math.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return (kernel / math.sqrt(float((kernel**2).sum()))).astype(np.float32)


def _bands(sigma_N: Floats) -> list[tuple[slice, float]]:
    """Return runs of rows with nearly one lateral width, and that width."""
    bands, start = [], 0
    for row in range(1, len(sigma_N) + 1):
        run = sigma_N[start : row + 1]
        if row == len(sigma_N) or run.max() / run.min() > _STEP:
            bands.append((slice(start, row), float(sigma_N[start:row].mean())))
            start = row
    return bands


def echo(rng: np.random.Generator, beam: Beam, tissue_db_NL: Floats, mirror_NL2: Floats, noise_db_N: Floats) -> Floats:
    """Return the envelope [N, L]: diffuse and coherent echoes through the beam, plus electronic noise.

    Args:
        rng: draws the scatterers and the noise.
        beam: point spread function.
        tissue_db_NL: mean level of diffuse echo, dB, attenuation and gain included.
        mirror_NL2: complex amplitude of coherent echoes, likewise.
        noise_db_N: level of the noise after gain, dB.
    """
    amplitude = _amplitude(tissue_db_NL)
    scatterers = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32)
    scatterers *= amplitude[..., None]
    scatterers += mirror_NL2
    noise = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32)
    seen = beam.blur(scatterers) + beam.pulse(noise) * _amplitude(noise_db_N)[:, None, None]
    return _floats(cv2.magnitude(seen[..., 0], seen[..., 1]))


def _amplitude(db: Floats) -> Floats:
    """Return 10^(dB / 20)."""
    return _floats(cv2.exp(db * np.float32(math.log(10) / 20))).reshape(db.shape)


def loss_behind(alpha_NL: Floats, grid: Grid) -> Floats:
    """Return the two-way loss in dB above each sample, of an extra attenuation in dB / (cm MHz) per sample.

    Negative where something attenuates less than the tissue that TGC was set for: enhancement.
    """
    per_sample = np.float32(2.0 * grid.probe.frequency * grid.step / 10.0)
    loss = np.cumsum(alpha_NL, axis=0, dtype=np.float32)
    loss *= per_sample
    return loss


def compress(
    envelope_NL: Floats, middle: float, dynamic_range: float, curve_256: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return grey levels: logarithm, `dynamic_range` dB over the scale, 0 dB at the share `middle` of it, a curve."""
    scale = 255.0 / dynamic_range
    grey = cv2.log(envelope_NL + np.float32(1e-6)) * np.float32(20.0 / math.log(10) * scale) + np.float32(255 * middle)
    return cv2.LUT(np.clip(grey, 0, 255).astype(np.uint8), curve_256).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Screen:
    """Scan conversion: where on the acquisition grid each pixel lies."""

    fixed: NDArray[np.int16]
    """cv2.convertMaps' integer part [H, W, 2]."""
    weights: NDArray[np.uint16]
    """Its index of interpolation weights [H, W]."""
    region: NDArray[np.bool_]
    """[H, W], the pixels that lie on the grid: the true region."""

    def convert(self, grey_NL: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the grid as the pixels show it [H, W], black around."""
        shown = cv2.remap(grey_NL, self.fixed, self.weights, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(shown, np.uint8) * self.region


def make_screen(grid: Grid, size: int, box: tuple[int, int, int, int]) -> Screen:
    """Return the conversion into the box (top, left, height, width) of a frame of `size` x `size` pixels.

    Pixels are square. A linear array fills the box; a sector is as large as fits and stands in its middle.
    """
    probe, (samples, lines) = grid.probe, grid.shape
    top, left, height, width = box
    down, across = np.mgrid[:size, :size].astype(np.float64) + 0.5
    if probe.kind == "linear":
        row = (down - top) / height * samples
        line = (across - left) / width * lines
    else:
        sine, cosine = math.sin(probe.half_width), math.cos(probe.half_width)
        dip = probe.radius * (1 - cosine)  # the face's edges lie this much above its middle
        scale = max((probe.depth + dip) / height, 2 * (probe.radius + probe.depth) * sine / width)
        x = (across - left - width / 2) * scale
        z = (down - top) * scale + probe.radius * cosine
        row = (np.hypot(x, z) - probe.radius) / probe.depth * samples
        line = (np.arctan2(x, z) / probe.half_width + 1) / 2 * lines
    region = (row >= 0) & (row < samples) & (line >= 0) & (line < lines)
    fixed, weights = cv2.convertMaps((line - 0.5).astype(np.float32), (row - 0.5).astype(np.float32), cv2.CV_16SC2)
    return Screen(np.asarray(fixed, np.int16), np.asarray(weights, np.uint16), region)


def _floats(array: object) -> Floats:
    """Return an array that OpenCV made, typed."""
    return np.asarray(array, np.float32)


_ONE: Floats = np.ones(1, np.float32)
"""The kernel that leaves a direction as it is."""
