"""A recipe file from a stranger ends with a message, whatever it holds, and takes neither memory nor time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usjepa.cache.errors import RecipeError
from usjepa.cache.recipes.recipe import load_recipe, recipe_names

if TYPE_CHECKING:
    from pathlib import Path


def _laughs(leaf: str, opening: str, item: str, closing: str) -> str:
    """Return YAML in which each line has the one before ten times: 10 billion values in a kilobyte."""
    lines = [f"a0: &a0 {leaf}"]
    for depth in range(1, 11):
        items = ", ".join(item.format(place=place, below=depth - 1) for place in range(10))
        lines.append(f"a{depth}: &a{depth} {opening}{items}{closing}")
    return "\n".join(lines)


LISTS = _laughs("[x]", "[", "*a{below}", "]")
MAPS = _laughs("{x: 1}", "{{", "k{place}: *a{below}", "}}").replace("{{", "{").replace("}}", "}")
MERGED = _laughs("{x: 1}", "{<<: [", "*a{below}", "]}")

FILES = {
    "lists as a value": LISTS + "\nr: {cache: {source: *a10 }}",
    "lists as a recipe": LISTS + "\nr: *a10",
    "lists as what it extends": LISTS + "\nr: {extends: *a10 }",
    "maps as a section": MAPS + "\nr: {cache: *a10 }",
    "merged maps": MERGED + "\nr: {cache: *a10 }",
    "a recipe in itself": "r: &r {cache: *r }",
    "a list in itself": "r: {cache: {source: &s [*s ]}}",
    "a number of 100,000 hexadecimal digits": "r: {cache: {seed: 0x" + "f" * 100_000 + "}}",
    "bytes": "r: {cache: {source: !!binary aGVsbG8=}}",
    "a set": "r: {cache: !!set {a, b}}",
    "a list as a key": "r: {cache: {? [a, b] : 1}}",
    "numbers as names": "1: {}\nnull: {}\n",
    "three thousand that extend each other": "r: {extends: r0}\nr3000: {}\n"
    + "".join(f"r{n}: {{extends: r{n + 1}}}\n" for n in range(3000)),
    "a lone surrogate": 'r: {cache: {source: "\\ud800"}}',
}


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_recipe_file_is_refused_with_a_short_message(tmp_path: Path, kind: str) -> None:
    (tmp_path / "r.yaml").write_text(FILES[kind])
    with pytest.raises(RecipeError, match=r"r\.yaml: ") as refused:
        load_recipe("r", (), str(tmp_path / "r.yaml"))
    assert len(str(refused.value)) < 800


def test_aliases_in_an_honest_file_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: {cache: &cache {seed: 7}}\nb: {cache: {<<: *cache , image_size: 32}}\n")
    assert recipe_names(str(tmp_path / "r.yaml")) == ["a", "b"]
    cache = load_recipe("b", (), str(tmp_path / "r.yaml")).cache
    assert (cache.seed, cache.image_size) == (7, 32)
