"""Claims about the three frames of the first screen: how they are chosen, and what colours them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from tests.support.documents import document
from tests.support.documents import page as page_of
from usjepa.evaluate.report.answer.overlay import blended, token_colours
from usjepa.evaluate.report.answer.shown import Shown, chosen_frames, chosen_numbers, three_frames
from usjepa.evaluate.report.document import Document

NASTY = '"><script>alert(1)</script>'


def test_the_surest_recognised_the_surest_mistaken_and_the_least_sure_are_shown() -> None:
    probability = np.array([[0.9, 0.1], [0.99, 0.01], [0.2, 0.8], [0.97, 0.03], [0.45, 0.55]])
    truth = np.array([0, 0, 0, 1, 1])
    chosen = chosen_frames(probability, truth, np.arange(5))
    assert chosen == [("Recognised most surely", 1), ("Mistaken most surely", 3), ("Least sure", 4)]


def test_other_patients_come_first_and_no_frame_comes_twice() -> None:
    probability = np.array([[0.99, 0.01], [0.95, 0.05], [0.9, 0.1], [0.4, 0.6]])
    chosen = chosen_frames(probability, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 0]))
    assert [at for _, at in chosen] == [0, 2, 3]


def test_where_nothing_is_mistaken_two_frames_are_shown_and_of_one_frame_one() -> None:
    probability = np.array([[0.9, 0.1], [0.6, 0.4]])
    assert [at for _, at in chosen_frames(probability, np.zeros(2, np.int64), np.arange(2))] == [0, 1]
    assert len(chosen_frames(probability[:1], np.zeros(1, np.int64), np.arange(1))) == 1


def test_of_numbers_the_nearest_the_farthest_and_one_between_are_shown() -> None:
    chosen = chosen_numbers(np.array([3.0, 0.5, 9.0, 0.1, 4.0]), np.arange(5))
    assert [at for _, at in chosen] == [3, 2, 0]
    assert len(chosen_numbers(np.zeros(2), np.zeros(2, np.int64))) == 2


def test_patches_that_are_alike_get_one_colour_whatever_the_sign_of_a_component() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (3, 4, 4))
    tokens = rng.standard_normal((3, 16)).astype(np.float32)[kinds]
    colours = token_colours(tokens, np.ones((3, 4, 4), bool))
    assert colours.shape == (3, 4, 4, 3)
    found = [np.unique(colours[kinds == kind], axis=0) for kind in range(3)]
    assert all(len(one) == 1 for one in found)
    assert len({tuple(one[0]) for one in found}) == 3
    assert (token_colours(tokens.copy(), np.ones((3, 4, 4), bool)) == colours).all()


def test_tokens_that_do_not_differ_or_have_two_numbers_are_coloured_too() -> None:
    every = np.ones((1, 2, 2), bool)
    assert token_colours(np.ones((1, 2, 2, 8), np.float32), every).shape == (1, 2, 2, 3)
    two = np.random.default_rng(0).random((1, 2, 2, 2)).astype(np.float32)
    assert (token_colours(two, every) == token_colours(two, ~every)).all()


def test_patches_outside_the_scan_have_no_say_in_the_colours() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, 4, 4, 16)).astype(np.float32)
    inside = np.ones((3, 4, 4), bool)
    inside[:, 0] = False
    other = tokens.copy()
    other[:, 0] *= 100
    assert (token_colours(tokens, inside)[inside] == token_colours(other, inside)[inside]).all()


def test_colours_lie_over_grey_and_colour_frames() -> None:
    colours = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    cells = np.ones((2, 2), bool)
    for channels in (1, 3):
        over = blended(np.zeros((channels, 4, 4), np.uint8), colours, cells)
        assert over.shape == (4, 4, 3)
        assert (over[:, :2] == over[0, 0]).all()
        assert over[0, 0, 0] > 100
        assert over[0, 3, 2] > 100
    cells[:, 1] = False
    assert (blended(np.full((1, 4, 4), 9, np.uint8), colours, cells)[:, 2:] == 9).all()


def test_frames_that_were_not_made_anonymous_are_not_shown() -> None:
    task = SimpleNamespace(name="t", store=SimpleNamespace(identity={"pixels": {"preprocess": {"deidentify": False}}}))
    assert three_frames(cast("Any", task), np.ones((1, 2)), lambda _: None) == []


def test_the_page_shows_them_escaped_and_says_nothing_of_colours_where_there_are_none() -> None:
    from usjepa.evaluate.encoders.finished_run import Curve
    from usjepa.evaluate.report.page import render

    one = Shown(NASTY, NASTY, NASTY, NASTY, False, "data:image/png;base64,AA", "")
    text = render(Document.model_validate(document()), Curve([], []), [], b"", [one])
    assert "<script" not in text
    assert "principal components of the" not in text.split("Map of the features")[0]
    assert "Three test frames" not in page_of(document())
