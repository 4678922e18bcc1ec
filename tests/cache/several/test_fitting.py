"""Stores that do not fit each other are refused field by field, and what is not read may differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.several import names, write_sources
from tests.support.stores import layers
from usjepa.cache import open_store, open_stores
from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.several.naming import short_names
from usjepa.cache.store.layers import Layer

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.identity import Json

PIXELS = {"recipe": "test"}
MORE = Layer("latents/more", "float16", (4, 8), 4, {})


def changed(name: str, **fields: Json) -> dict[str, Layer]:
    found = layers()
    found[name] = replace(found[name], **fields)
    return found


UNFIT = {
    "size": (changed("pixels", shape=(1, 8, 8)), "pixels.size: 16 | 8"),
    "channels": (changed("pixels", shape=(3, 16, 16)), "pixels.channels: 1 | 3"),
    "pixel recipe": (changed("pixels", identity={"recipe": "other"}), 'pixels.identity.recipe: "test" | "other"'),
    "view version": (changed("pixels", identity={**PIXELS, "view": 2}), "pixels.identity.view: null | 2"),
    "regions": (changed("regions", identity={"region": 2}), "regions.identity.region: 1 | 2"),
    "grid": (changed("latents/toy", shape=(9, 8)), "latents/toy.patches: 4 | 9"),
    "width": (changed("latents/toy", shape=(4, 6)), "latents/toy.width: 8 | 6"),
    "teacher": (changed("latents/toy", identity={"weights": "1" * 32}), 'latents/toy.identity.weights: "000'),
    "precision": (changed("latents/toy", dtype="float32"), 'latents/toy.dtype: "float16" | "float32"'),
    "int8": (layers(precision="int8"), 'scales/toy: "missing" | "held"'),
    "layer": ({**layers(), "latents/more": MORE}, 'latents/more: "missing" | "held"'),
}


def pair(tmp_path: Path, second: dict[str, Layer]) -> list[Path]:
    write_sources(tmp_path / "a.zarr", names("a", 3))
    write_sources(tmp_path / "b.zarr", names("b", 3), described=second)
    return [tmp_path / "a.zarr", tmp_path / "b.zarr"]


@pytest.mark.parametrize("what", UNFIT)
def test_what_must_agree_and_does_not_is_refused_with_its_field_and_both_stores(tmp_path: Path, what: str) -> None:
    second, field = UNFIT[what]
    with pytest.raises(IdentityError) as caught:
        open_stores(pair(tmp_path, second))
    lines = str(caught.value).splitlines()
    assert f"{tmp_path / 'b.zarr'} (field: a.zarr | b.zarr):" in lines
    assert [line for line in lines if line.strip().startswith(field)]


def test_every_store_that_does_not_fit_is_named_with_every_field(tmp_path: Path) -> None:
    stores = pair(tmp_path, changed("pixels", identity={"recipe": "other", "view": 2}))
    write_sources(tmp_path / "c.zarr", names("c", 3), described=changed("latents/toy", shape=(4, 6)))
    with pytest.raises(IdentityError) as caught:
        open_stores([*stores, tmp_path / "c.zarr"])
    told = str(caught.value)
    assert told.index("b.zarr (field") < told.index("recipe") < told.index("view: null") < told.index("c.zarr (field")
    assert "latents/toy.width: 8 | 6" in told


@pytest.mark.parametrize("what", ["teacher", "precision", "grid", "layer", "int8"])
def test_layers_that_are_not_read_may_differ(tmp_path: Path, what: str) -> None:
    both = open_stores(pair(tmp_path, UNFIT[what][0]), ["pixels", "regions"])
    assert list(both.layers) == ["pixels", "regions"]
    assert not both.latents
    assert both.read([0, 5]).pixels.shape == (2, 1, 16, 16)
    with pytest.raises(UsageError, match="no layer 'latents/toy' is read of them"):
        both.read([0], layers=["latents/toy"])
    with pytest.raises(UsageError, match="no latents of 'toy' in all of them"):
        both.read([0], teacher="toy")


def test_scales_come_with_the_latents_that_are_asked_for(tmp_path: Path) -> None:
    for letter in "ab":
        write_sources(tmp_path / letter, names(letter, 3), described=layers(precision="int8"))
    both = open_stores([tmp_path / "a", tmp_path / "b"], ["pixels", "latents/toy"])
    assert "scales/toy" in both.layers
    assert both.read([5]).targets().equal(open_store(tmp_path / "b").read([2]).targets())


def test_shards_of_another_length_and_other_numbers_of_views_fit(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", names("a", 3), views=3)
    write_sources(tmp_path / "b", names("b", 3), views=1, described=layers(rows_per_shard=2))
    both = open_stores([tmp_path / "a", tmp_path / "b"])
    one, two = open_store(tmp_path / "a"), open_store(tmp_path / "b")
    read = both.read([8, 9, 10])
    assert (read.latents[0] == one.read([8]).latents[0]).all()
    assert (read.latents[1:] == two.read([0, 1]).latents).all()


def test_several_teachers_must_be_chosen_from(tmp_path: Path) -> None:
    two = {**layers(), "latents/more": MORE}
    for letter in "ab":
        write_sources(tmp_path / letter, names(letter, 3), described=two, seed=ord(letter))
    both = open_stores([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match="hold latents of several teachers"):
        both.read([0])
    assert both.read([0, 4], teacher="more").teacher == "more"


@pytest.mark.parametrize(
    ("locations", "told"),
    [
        (["/data/a.zarr", "s3://bucket/b.zarr/"], ("a.zarr", "b.zarr")),
        (["/alice/a.zarr", "/bob/a.zarr", "c"], ("a.zarr (1)", "a.zarr (2)", "c")),
    ],
)
def test_names_are_short_distinct_and_tell_no_folder(locations: list[str], told: tuple[str, ...]) -> None:
    assert short_names(locations) == told
