"""Find in a sample of latents what their layer needs before its first row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.coding.form import form_of
from usjepa.cache.coding.principal import fit_coding, kept_variance, rotated_scale
from usjepa.cache.store.precision import channel_scale, check_coded, dequantise, quantise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.coding.form import Form
    from usjepa.cache.store.layers import Layer

_CALIBRATION_ROWS = 64
_AXES_ROWS = 256
"""Axes are found in more rows than scales: D of them take D^2 / 2 numbers."""


def with_stored_calibration(layer: Layer, stored: Layer | None) -> Layer:
    """Return a layer with what was found in a sample when the stored one of its name was begun.

    A stored layer of another form has nothing for it; that they differ is for others to refuse.
    """
    if stored is None or layer.kind != "latents" or (stored.shape, stored.dtype) != (layer.shape, layer.dtype):
        return layer
    found = replace(layer, channel_scale=stored.channel_scale, coding=stored.coding)
    return found if is_calibrated(found) else layer


def is_calibrated(layer: Layer) -> bool:
    """Return whether rows can be stored in a layer, or something has to be found in a sample before."""
    if layer.kind != "latents":
        return True
    coded = layer.dtype == "uint8" or "axes" in layer.identity
    return (layer.coding is not None or not coded) and (bool(layer.channel_scale) or layer.dtype != "int8")


def with_calibration(
    layers: Sequence[Layer], sample_RTD: NDArray[np.float32], numbers: NDArray[np.int64]
) -> list[Layer]:
    """Return the layers with what is found in a sample of latents filled in: scales of channels, axes, offset.

    Args:
        layers: of one teacher.
        sample_RTD: latents of rows that exist.
        numbers: [R] their row numbers.

    Raises:
        LatentError: a latent of the sample is too large to be coded.
    """
    return [layer if is_calibrated(layer) else _calibrated(layer, sample_RTD, numbers) for layer in layers]


def _calibrated(layer: Layer, sample_RTD: NDArray[np.float32], numbers: NDArray[np.int64]) -> Layer:
    form = form_of(layer.identity)
    if not form.coded:
        return replace(layer, channel_scale=channel_scale(sample_RTD))
    check_coded(sample_RTD, numbers)
    found = _fitted(layer, form, sample_RTD)
    assert found.coding is not None
    kept, error = _held_out(layer, form, sample_RTD)
    return replace(found, coding=found.coding.with_sample(len(sample_RTD), kept, error))


def _fitted(layer: Layer, form: Form, sample_RTD: NDArray[np.float32]) -> Layer:
    """Return a layer with a coding, and with scales of its channels where it needs them."""
    coding = fit_coding(sample_RTD, form.axes, form.packed)
    if not form.scaled:
        return replace(layer, coding=coding)
    values_RTW = np.stack([coding.project(row_TD) for row_TD in sample_RTD])
    scale = rotated_scale(values_RTW) if form.packed else channel_scale(values_RTW)
    return replace(layer, channel_scale=scale, coding=coding)


def _held_out(layer: Layer, form: Form, sample_RTD: NDArray[np.float32]) -> tuple[float, float]:
    """Return the share of variance that axes of one half of a sample keep of the other, and its error when read back.

    Every second row is a half; each is measured with what is found in the other. Rounded to 6 digits: what is said of
    a layer is not to hang on the last bits.
    """
    halves = (sample_RTD[0::2], sample_RTD[1::2]) if len(sample_RTD) > 1 else (sample_RTD, sample_RTD)
    on_axes = whole = wrong = 0.0
    for mine_RTD, other_RTD in (halves, halves[::-1]):
        fitted = _fitted(layer, form, mine_RTD)
        assert fitted.coding is not None
        values, scales = quantise(other_RTD, fitted, 0)
        back_RTD = dequantise(values, scales, fitted.channel_scale, fitted.coding)
        wrong += float(np.square(back_RTD - other_RTD, dtype=np.float64).sum())
        part, all_ = kept_variance(other_RTD, fitted.coding)
        on_axes, whole = on_axes + part, whole + all_
    if whole == 0:
        return 1.0, 0.0
    kept = 1.0 if form.axes is None else min(on_axes / whole, 1.0)
    return float(f"{kept:.6g}"), float(f"{math.sqrt(wrong / whole):.6g}")


def sample_size(axes: bool) -> int:
    """Return the most rows of a sample that scales, or axes, are found in."""
    return _AXES_ROWS if axes else _CALIBRATION_ROWS


def calibration_rows(rows: NDArray[np.int64], count: int = _CALIBRATION_ROWS) -> NDArray[np.int64]:
    """Return up to `count` evenly spaced rows: a pure function of the store, so a resumed build draws the same."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
    return rows[places]
