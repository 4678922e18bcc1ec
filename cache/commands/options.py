"""Share options among the commands of `usjepa-cache`, and load the recipe that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.recipes.recipe import Recipe

hash_paths_option = click.option(
    "--hash-paths", is_flag=True, help="Name sources and groups by hashes; short for --set cache.hash_paths=true."
)
follow_links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Follow links that lead out of SOURCE (caches, git-annex, DataLad); short for --set cache.follow_links=true.",
)
device_option = click.option(
    "--device", default=None, help="Torch device of the teacher. Default: a GPU when there is one."
)
steal_option = click.option(
    "--steal", is_flag=True, help="Take over from a builder that you know is dead, without waiting."
)


def in_one(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> str | None:
    """Return the texts of an option that may be repeated with commas between; a `callback` of `click.option`."""
    return ",".join(given) if given else None


def names_in(option: str, given: Sequence[str]) -> list[str]:
    """Return the names, commas between, of an option that may be repeated.

    Raises:
        UsageError: one is empty, as of a variable that is not set: that must not mean everything.
    """
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise UsageError(f"{option} {','.join(given)!r}: names nothing, or an empty name. Give names, or no {option}.")
    return names


def hashed(overrides: tuple[str, ...], hash_paths: bool, follow_links: bool = False) -> tuple[str, ...]:
    """Return the overrides of a recipe, with `--hash-paths` and `--follow-links` among them."""
    more = [
        f"cache.{name}=true" for name, given in (("hash_paths", hash_paths), ("follow_links", follow_links)) if given
    ]
    return (*overrides, *more)


def needed_recipe(pipeline: str | None, recipes: str | None, overrides: tuple[str, ...], job: str) -> Recipe:
    """Load the recipe of a command that can't do without; raises UsageError, which lists the recipes."""
    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if pipeline is None:
        raise UsageError(f"{job} needs --pipeline NAME, one of: {', '.join(recipe_names(recipes))}.")
    return load_recipe(pipeline, overrides, recipes)
