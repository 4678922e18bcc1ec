"""Axes are the principal components of standardised latents, however these are counted in."""

from __future__ import annotations

import numpy as np

from usjepa.cache.inspecting.axes import Moments, colours_of


def correlated(count: int = 500, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim))
    return (mixed * 10.0 ** rng.integers(-2, 3, dim) + 1e3).astype(np.float32)


def counted(*parts: np.ndarray) -> Moments:
    moments = Moments(parts[0].shape[1])
    for part in parts:
        moments.add(part)
    return moments


def test_shares_and_coordinates_are_those_of_a_singular_value_decomposition() -> None:
    tokens = correlated()
    standard = (tokens - tokens.mean(axis=0, dtype=float)) / tokens.std(axis=0, dtype=float)
    values = np.linalg.svd(standard, compute_uv=False) ** 2
    axes = counted(tokens[:7], tokens[7:300], tokens[300:]).axes(3)
    np.testing.assert_allclose(axes.shares_K, (values / values.sum())[:3], rtol=1e-4)
    spread = axes.project(tokens).var(axis=0)
    np.testing.assert_allclose(spread, values[:3] / len(tokens), rtol=1e-2)


def test_channels_that_do_not_vary_and_tokens_that_are_not_finite_do_no_harm() -> None:
    tokens = correlated()
    tokens[:, 2] = 5e4
    tokens[3, 0] = np.nan
    axes = counted(tokens).axes(3)
    found = axes.project(tokens[[0, 1, 2, 4]])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(axes.standardise(tokens)[:, 2], 0)
    assert 0 < axes.shares_K.sum() <= 1 + 1e-9


def test_no_token_or_fewer_channels_than_axes_still_make_colours() -> None:
    assert colours_of(Moments(4).axes(3).project(np.ones((2, 5, 4), np.float32))).shape == (2, 5, 3)
    two = counted(correlated(dim=2)).axes(3)
    assert two.shares_K.shape == (2,)
    colours = colours_of(two.project(correlated(dim=2)))
    assert colours.shape == (500, 3)
    assert colours[:, :2].std() > 10
    assert (colours[:, 2] == 0).all()


def test_colours_run_over_the_percentiles_of_what_is_counted() -> None:
    coordinates = np.linspace(0, 1, 101)[:, None].repeat(3, axis=1).astype(np.float32)
    coordinates[100] = 1000
    counted_ones = np.arange(101) < 100
    colours = colours_of(coordinates, counted_ones)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[100].tolist() == [255, 255, 255]
    assert 120 < colours[49][0] < 135
    coordinates[5] = np.nan
    assert colours_of(coordinates)[5].tolist() == [127, 127, 127]
