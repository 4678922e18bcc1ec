"""Stores, runs and reports on disk rest on these very numbers."""

from __future__ import annotations

import random

import numpy as np
import torch

from usjepa.cache.randomness import fraction, generator, keyed_generator, uniforms


def test_named_streams_draw_what_they_always_drew() -> None:
    assert generator("view", 1, "ab").random(2).tolist() == [0.45915759944174817, 0.6512742859019596]
    assert fraction("a", 1) == 0.9434387159857077


def test_numbered_streams_draw_what_they_always_drew() -> None:
    assert keyed_generator(3, 5).integers(0, 1000, 3).tolist() == [630, 89, 433]
    assert keyed_generator(3, 2**63 + 5).random() == 0.5512624605927677


def test_a_stream_depends_on_every_part_and_on_their_order() -> None:
    drawn = [generator(*parts).random() for parts in (("a", 1, 2), ("a", 2, 1), ("a", 1), ("b", 1, 2), ("a", "1", 2))]
    assert len(set(drawn)) == len(drawn)
    assert keyed_generator(1, 2).random() != keyed_generator(2, 1).random()


def test_streams_drawn_together_are_those_drawn_one_by_one() -> None:
    streams: list[tuple[str | int, ...]] = [("view", 1, "ab"), ("a",), ("ä", 2**70, -1), ("view", 1, "ab")]
    for count in (1, 5, 9):
        apart = [generator(*parts).random(count).tolist() for parts in streams]
        assert uniforms(streams, count).tolist() == apart
    assert uniforms([], 5).shape == (0, 5)


def test_a_test_draws_the_same_whichever_ran_before_it_where_it_gives_no_generator() -> None:
    """By the hooks of `tests/conftest.py`."""
    ours = torch.Generator().manual_seed(0)
    assert random.random() == random.Random(0).random()
    assert np.random.random() == np.random.RandomState(0).random()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=ours))
