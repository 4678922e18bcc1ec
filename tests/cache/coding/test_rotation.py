"""A rotation keeps lengths, spreads what stands out, and is undone bit for bit alike by NumPy and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usjepa.cache.coding.nibbles import pack, pack_tensor, packed_width, unpack, unpack_tensor
from usjepa.cache.coding.rotation import (
    rotate,
    rotate_back,
    rotate_tensor,
    rotate_tensor_back,
    rotation_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTHS = [1, 2, 3, 5, 8, 12, 61, 64, 96, 144, 192, 600]


def matrix(width: int) -> NDArray[np.float64]:
    """The rotation as a matrix, made from Sylvester's construction: values @ matrix."""
    size = rotation_of(width)
    hadamard = np.ones((1, 1))
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    first, last = np.eye(width), np.eye(width)
    first[:size, :size] = hadamard / np.sqrt(size)
    if size < width:
        signs = [(-1) ** bin(i & i >> 1).count("1") for i in range(size)]
        last[width - size :, width - size :] = np.diag(signs) @ hadamard / np.sqrt(size)
    return np.asarray(first @ last)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_the_product_with_an_orthogonal_matrix_and_is_undone(width: int) -> None:
    values = np.random.default_rng(width).standard_normal((3, 4, width)).astype(np.float32)
    by_matrix = matrix(width)
    np.testing.assert_allclose(by_matrix @ by_matrix.T, np.eye(width), atol=1e-12)
    rotated = rotate(values, rotation_of(width))
    np.testing.assert_allclose(rotated, values @ by_matrix, atol=1e-5)
    np.testing.assert_allclose(rotate_back(rotated, rotation_of(width)), values, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_numpy_and_torch_give_the_same_bits(width: int) -> None:
    values = np.random.default_rng(width).standard_normal((3, 4, width)).astype(np.float32)
    tensor, size = torch.from_numpy(values), rotation_of(width)
    assert rotate_tensor(tensor, size).numpy().tobytes() == rotate(values, size).tobytes()
    assert rotate_tensor_back(tensor, size).numpy().tobytes() == rotate_back(values, size).tobytes()


@pytest.mark.parametrize("width", [61, 64, 96, 144, 192, 600])
def test_a_channel_that_stands_out_is_spread_over_many(width: int) -> None:
    shares = np.abs(rotate(np.eye(width, dtype=np.float32), rotation_of(width)))
    assert shares.max() <= 3 / np.sqrt(rotation_of(width))
    assert (shares > 0.01 / np.sqrt(width)).sum(axis=1).min() >= rotation_of(width) / 2


@given(st.integers(1, 9).flatmap(lambda width: st.lists(st.integers(-7, 7), min_size=width, max_size=width)))
def test_two_values_in_a_byte_come_back_in_numpy_and_in_torch(values: list[int]) -> None:
    whole = np.array([values], np.float32)
    packed = pack(whole)
    assert packed.shape == (1, packed_width(len(values)))
    assert packed[0, 0] & 15 == values[0] + 8, "the first lies in the lower four bits"
    np.testing.assert_array_equal(unpack(packed, len(values)), whole)
    assert pack_tensor(torch.from_numpy(whole)).numpy().tobytes() == packed.tobytes()
    np.testing.assert_array_equal(unpack_tensor(torch.from_numpy(packed), len(values)).numpy(), whole)
