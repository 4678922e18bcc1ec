"""The counter-based generator: known bits, uniform, independent between streams, the same on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usjepa.train.counter import _bits_torch, absorb, bits, normals_torch, stream, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

words = st.integers(-(2**63), 2**63 - 1)


def test_draws_are_the_published_outputs_of_splitmix64() -> None:
    # First outputs for seeds 0 and 1234567 as given by the reference implementation.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert bits(np.array(0, np.uint64), np.arange(3)).tolist() == expected
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert bits(np.array(1234567, np.uint64), np.arange(4)).tolist() == expected


def test_keys_of_streams_never_change_between_versions() -> None:
    keys = stream("masks", 0, 1, np.arange(3))
    assert [hex(int(key)) for key in keys] == ["0xafc7d689bd8cc97", "0xfa62c753dbef6da5", "0xc23fd583b6da0057"]


@given(words, words, st.lists(words, min_size=1, max_size=8))
def test_a_key_depends_on_its_own_row_alone(seed: int, step: int, rows: list[int]) -> None:
    together = stream("masks", seed, step, np.array(rows, dtype=np.int64))
    alone = [stream("masks", seed, step, row) for row in rows]
    assert together.tolist() == [int(key) for key in alone]


@given(words, words)
def test_order_of_words_and_purpose_name_different_streams(a: int, b: int) -> None:
    assert (stream("masks", a, b) == stream("masks", b, a)) == (a == b)
    assert stream("masks", a, b) != stream("augment", a, b)


def test_long_purposes_are_told_apart_beyond_eight_letters() -> None:
    assert stream("validation-a", 0) != stream("validation-b", 0)


@pytest.mark.parametrize(
    "draws",
    [
        pytest.param(uniforms(stream("t", 0, 0, np.arange(200_000)), 0), id="over rows"),
        pytest.param(uniforms(stream("t", 0, np.arange(200_000), 7), 0), id="over steps"),
        pytest.param(uniforms(stream("t", np.arange(200_000), 0, 7), 0), id="over seeds"),
        pytest.param(uniforms(stream("t", 0, 0, 7), np.arange(200_000)), id="over draws"),
    ],
)
def test_uniforms_are_uniform_and_uncorrelated_along_every_word(draws: NDArray[np.float64]) -> None:
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.histogram(draws, bins=256, range=(0, 1))[0]
    chi_square = ((counts - len(draws) / 256) ** 2 / (len(draws) / 256)).sum()
    assert 255 - 5 * np.sqrt(510) < chi_square < 255 + 5 * np.sqrt(510)
    for lag in (1, 2, 14, 196):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 5 / np.sqrt(len(draws))


def test_draws_of_different_parts_of_a_run_are_uncorrelated() -> None:
    rows = np.arange(100_000)
    columns = [
        uniforms(stream("masks", 0, 0, rows), 0),
        uniforms(stream("masks", 0, 0, rows), 1),
        uniforms(stream("masks", 0, 1, rows), 0),
        uniforms(stream("masks", 1, 0, rows), 0),
        uniforms(stream("augment", 0, 0, rows), 0),
        uniforms(absorb(stream("masks", 0, 0, rows), 0), 0),
    ]
    off_diagonal = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(len(rows))


def test_one_flipped_bit_of_a_row_number_flips_half_of_the_keys_bits() -> None:
    rows = np.arange(2000)
    for bit in range(0, 63, 7):
        flipped = stream("masks", 0, 0, rows) ^ stream("masks", 0, 0, rows ^ (1 << bit))
        assert np.unpackbits(flipped.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.01)


def test_torch_draws_the_very_bits_of_numpy() -> None:
    keys = stream("noise", 3, 4, np.arange(50))
    drawn = _bits_torch(keys, 33, "cpu").numpy().view(np.uint64)
    np.testing.assert_array_equal(drawn, bits(keys[:, None], np.arange(33)))


def test_normals_are_normal_and_independent_of_the_batch_and_of_the_count() -> None:
    keys = stream("noise", 0, 0, np.arange(64))
    eta = normals_torch(keys, 10_000, "cpu")
    assert eta.dtype == torch.float32
    assert bool(torch.isfinite(eta).all())
    flat = eta.double().flatten()
    assert abs(float(flat.mean())) < 5 / 800
    assert float(flat.std()) == pytest.approx(1.0, abs=0.005)
    assert float((flat**3).mean()) == pytest.approx(0.0, abs=0.03)
    assert float((flat**4).mean()) == pytest.approx(3.0, abs=0.1)
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert float((flat.abs() < bound).double().mean()) == pytest.approx(share, abs=0.003)
    torch.testing.assert_close(normals_torch(keys[5:6], 10_000, "cpu"), eta[5:6])
    assert normals_torch(keys, 7, "cpu").shape == (64, 7)
