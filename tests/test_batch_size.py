"""A batch size is found without dying of memory, on a pretended GPU: what fits, what is worth it, what is kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from usjepa.cache.batch_size import choose_batch_size, find_batch_size
from usjepa.cache.errors import TeacherError
from usjepa.cache.settings import TeacherSettings


def device(fits, saturates):
    """Return a device whose memory takes `fits` images and whose speed grows up to `saturates` of them."""
    tried = []

    def rows_per_s(rows):
        tried.append(rows)
        if rows > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(min(rows, saturates))

    return rows_per_s, tried


@pytest.mark.parametrize(
    ("fits", "saturates", "expected"),
    [(10_000, 10_000, 1024), (10_000, 100, 128), (300, 10_000, 128), (5, 10_000, 2), (1, 1, 1)],
    ids=["grows to the end", "no faster beyond", "out of memory at 512", "at 8", "one fits"],
)
def test_the_size_found_fits_with_room_to_spare_and_is_worth_its_memory(fits, saturates, expected):
    rows_per_s, tried = device(fits, saturates)
    recovered = []
    assert find_batch_size(rows_per_s, lambda: recovered.append(1)) == expected
    assert expected <= fits
    assert len(recovered) == sum(rows > fits for rows in tried) <= 1


def test_a_device_that_takes_no_image_at_all_is_an_error_and_not_a_crash():
    rows_per_s, _ = device(0, 1)
    with pytest.raises(TeacherError, match="not even one image fits"):
        find_batch_size(rows_per_s, lambda: None)


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    def rows_per_s(rows):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        find_batch_size(rows_per_s, lambda: None)


def test_the_recipes_size_comes_first_then_the_one_the_store_was_begun_with():
    teacher = SimpleNamespace(device=torch.device("cpu"))
    kept = [{"torch": "2"}, {"torch": "2", "batch_size": 96}]
    assert choose_batch_size(teacher, TeacherSettings(batch_size=7), 1, 32, kept) == 7
    assert choose_batch_size(teacher, TeacherSettings(batch_size=None), 1, 32, kept) == 96
    assert choose_batch_size(teacher, TeacherSettings(batch_size=None), 1, 32, []) == 32
