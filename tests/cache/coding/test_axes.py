"""Axes keep the variance that they say, and what a layer keeps of them can't be forged unnoticed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from usjepa.cache.coding.coding import Coding
from usjepa.cache.coding.form import Form
from usjepa.cache.coding.principal import fit_coding, kept_variance, rotated_scale

Latents = NDArray[np.float32]


def low_rank(rank: int, dim: int = 24, rows: int = 12) -> Latents:
    """Latents that vary along `rank` directions alone, each less than the one before, around a mean."""
    rng = np.random.default_rng(rank)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:rank]
    values = rng.standard_normal((rows, 9, rank)) * 2.0 ** -np.arange(rank)
    return np.asarray(values @ directions + 10 * rng.standard_normal(dim), np.float32)


def test_axes_are_orthonormal_and_those_of_the_covariance_the_largest_first() -> None:
    sample = low_rank(24)
    basis = fit_coding(sample, 6, packed=False).basis
    assert basis is not None
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=2e-3)
    flat = sample.reshape(-1, 24).astype(np.float64)
    wanted = np.linalg.svd(flat - flat.mean(axis=0))[2][:6]
    np.testing.assert_allclose(np.abs((basis * wanted).sum(axis=1)), 1, atol=1e-3)
    assert (np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_as_many_axes_as_directions_lose_nothing_and_fewer_lose_what_they_say() -> None:
    sample = low_rank(5)
    squares = np.linalg.svd((sample - sample.mean(axis=(0, 1))).reshape(-1, 24), compute_uv=False) ** 2
    for count in (5, 2, 1):
        coding = fit_coding(sample, count, packed=False)
        back = np.stack([coding.restore(coding.project(row)) for row in sample])
        lost = np.square(back - sample).sum() / np.square(sample - sample.mean(axis=(0, 1))).sum()
        on_axes, whole = kept_variance(sample, coding)
        assert on_axes / whole == pytest.approx(1 - lost, abs=2e-3)
        assert on_axes / whole == pytest.approx(squares[:count].sum() / squares.sum(), abs=2e-3)


def test_a_channel_that_stands_still_in_the_sample_gets_a_tenth_of_the_median_spread() -> None:
    values = np.random.default_rng(0).standard_normal((4, 9, 8)).astype(np.float32)
    values[..., 3] = 0
    scale = np.abs(rotated_scale(values))
    assert scale[3] == pytest.approx(0.1 * np.median(np.delete(scale, 3)), rel=1e-3)
    assert set(np.sign(rotated_scale(np.zeros((2, 2, 64), np.float32)))) == {-1.0, 1.0}
    assert set(np.abs(rotated_scale(np.zeros((2, 2, 64), np.float32)))) == {1.0}


def coding() -> Coding:
    return fit_coding(low_rank(5), 4, packed=True).with_sample(12, 0.99, 0.1)


def test_what_a_layer_keeps_comes_back_from_json() -> None:
    again = Coding.from_json(json.loads(json.dumps(coding().to_json())))
    assert again == coding()
    np.testing.assert_array_equal(again.mean, coding().mean)
    assert (again.coded_width, again.stored_width, again.rotation, again.width) == (4, 2, 4, 24)
    assert str(again) == "4 of 24 axes keep 99.0 % of the variance; relative error 0.1, by halves of 12 rows"


@pytest.mark.parametrize(
    "change",
    [
        {"coded_width": 5}, {"coded_width": 0}, {"width": 23}, {"rotation": 8}, {"packed": False}, {"offset": "AAAA"},
        {"axes": None}, {"axes": "!"}, {"sample": {}}, {"more": 1},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Coding.from_json({**coding().to_json(), **change})


def test_numbers_that_are_not_finite_are_no_coding() -> None:
    with pytest.raises(ValueError, match="finite"):
        replace(coding(), offset=base64.b64encode(np.full(24, np.nan, "<f4").tobytes()).decode())


@pytest.mark.parametrize(
    ("form", "share"),
    [(Form("int8"), 0.503), (Form("int4"), 0.253), (Form("int4", 600), 0.198), (Form("int8", 300), 0.198)],
)
def test_a_form_takes_the_share_of_fp16_that_the_docs_say(form: Form, share: float) -> None:
    from usjepa.cache.store.precision import bytes_per_row

    assert bytes_per_row(form, 196, 768) / bytes_per_row(Form("fp16"), 196, 768) == pytest.approx(share, abs=5e-4)
