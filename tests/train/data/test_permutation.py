"""The shuffle that is never held: a bijection at any size, and none of these tests tells it from chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from usjepa.train.counter import bits, stream
from usjepa.train.data.permutation import permuted

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVEN_ODDS = 1e-6
"""Keys are fixed, so a test passes always or never; a fair shuffle would fail one in a million of them."""


def key(number: int) -> NDArray[np.uint64]:
    return stream("test", number)


def whole(number: int, n: int) -> np.ndarray:
    return permuted(key(number), np.arange(n, dtype=np.int64), n)


@given(
    st.one_of(st.integers(1, 3000), st.sampled_from([1023, 1024, 1025, 4096, 4097, 65_535, 65_536])), st.integers(0, 99)
)
@settings(max_examples=150)
def test_every_number_goes_to_a_place_of_its_own(n: int, number: int) -> None:
    assert np.sort(whole(number, n)).tolist() == list(range(n))


@given(st.integers(2, 5000), st.integers(0, 99), st.data())
@settings(max_examples=60)
def test_a_number_goes_where_it_goes_whoever_is_asked_for_with_it(n: int, number: int, data: st.DataObject) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    assert permuted(key(number), some, n).tolist() == whole(number, n)[some].tolist()


@pytest.mark.parametrize("n", [10**8, 10**8 + 7, 2**40 + 1, 2**62])
def test_numbers_far_beyond_what_could_be_listed_go_to_different_places(n: int) -> None:
    numbers = np.unique((bits(key(1), np.arange(200_000)) % np.uint64(n)).astype(np.int64))
    places = permuted(key(2), numbers, n)
    assert places.min() >= 0
    assert places.max() < n
    assert len(np.unique(places)) == len(numbers)


def test_the_shuffle_of_this_version_stays_what_it_is() -> None:
    assert permuted(key(0), np.arange(5), 10**8).tolist() == [43794622, 73994420, 93488491, 49788182, 98979743]


def test_keys_name_different_shuffles() -> None:
    assert (whole(0, 5000) == whole(1, 5000)).sum() < 20


@pytest.mark.parametrize("n", [4, 5])
def test_all_orders_of_a_few_numbers_are_equally_likely(n: int) -> None:
    weights = n ** np.arange(n)
    codes = np.array([whole(number, n) @ weights for number in range(6000)])
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, n + 1))
    assert stats.chisquare(counts).pvalue > EVEN_ODDS


@pytest.mark.parametrize("n", [8, 1024, 1025, 10_007])
def test_the_first_numbers_go_anywhere_equally_often_also_in_pairs(n: int) -> None:
    cells = min(n, 8)
    places = np.array([permuted(key(number), np.arange(3), n) for number in range(3000)]) * cells // n
    share = np.bincount(np.arange(n) * cells // n) / n
    for column in places.T:
        assert stats.chisquare(np.bincount(column, minlength=cells), 3000 * share).pvalue > EVEN_ODDS
    if n == 8:
        return  # two numbers never share a place, which shows in pairs when there are few
    pairs = np.bincount(places[:, 0] * cells + places[:, 1], minlength=cells * cells)
    assert stats.chisquare(pairs, 3000 * np.outer(share, share).ravel()).pvalue > EVEN_ODDS


@pytest.mark.parametrize("n", [1025, 65_537, 10**8])
def test_neighbours_end_up_no_nearer_than_strangers(n: int) -> None:
    numbers = np.arange(min(n, 100_000), dtype=np.int64)
    steps = np.diff(np.concatenate([permuted(key(number), numbers, n) for number in range(20)]))
    counts = np.bincount((steps % n) * 64 // n, minlength=64)
    assert stats.chisquare(counts, np.full(64, counts.sum() / 64)).pvalue > EVEN_ODDS


def test_a_shuffle_has_one_fixed_number_on_average() -> None:
    fixed = [int((whole(number, 2000) == np.arange(2000)).sum()) for number in range(800)]
    assert np.mean(fixed) == pytest.approx(1, abs=5 / np.sqrt(800))
    assert np.var(fixed) == pytest.approx(1, abs=0.35)


def test_a_shuffle_has_as_many_cycles_as_chance_gives() -> None:
    n, found = 3000, []
    for number in range(200):
        places, seen, cycles = whole(number, n), np.zeros(n, bool), 0
        for start in range(n):
            if not seen[start]:
                cycles += 1
                while not seen[start]:
                    seen[start] = True
                    start = places[start]
        found.append(cycles)
    expected = (1 / np.arange(1, n + 1)).sum()
    assert np.mean(found) == pytest.approx(expected, abs=5 * np.sqrt(expected / 200))
