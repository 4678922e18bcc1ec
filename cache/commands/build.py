"""Define the commands that build a store: build, seal and status."""

from __future__ import annotations

from typing import Any

import click

from usjepa.cache.command_line import Command, ends_well, recipe_options
from usjepa.cache.commands.options import (
    device_option,
    follow_links_option,
    hash_paths_option,
    hashed,
    in_one,
    needed_recipe,
    steal_option,
)


@click.command(cls=Command)
@click.argument("store")
@click.option("--source", default=None, help="Folder, file, manifest CSV or `phantom`. Default: the recipe's own.")
@click.option(
    "--teacher",
    default=None,
    help="Checkpoint file, PRESET=FILE (see `teachers`), folder of a run, of transformers or timm, hf-hub:ORG/NAME, "
    "timm's NAME.TAG, `random`, or module:function. Default: pixels only.",
)
@click.option(
    "--reference", default=None, help="safetensors of pixels and tokens from the teacher's authors' own code."
)
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default=None, help="What an unreadable file does.")
@steal_option
@device_option
@click.option(
    "--devices",
    multiple=True,
    callback=in_one,
    help="Several of one kind, such as cuda:0,cuda:1, instead of --device. Repeatable.",
)
@click.option("--part", default=None, metavar="I/N", help="Build every N-th shard only; other processes build theirs.")
@click.option("--dask", default=None, metavar="ADDRESS", help="Build on a Dask cluster, or with `local:N` processes.")
@click.option(
    "--no-space-check",
    "space_check",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Begin even where the file system says that space or inodes won't do.",
)
@hash_paths_option
@follow_links_option
@recipe_options
@ends_well
def build(
    store: str,
    hash_paths: bool,
    follow_links: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    **request: Any,
) -> None:
    """Build STORE, or go on where an earlier build stopped.

    Without --teacher: pixels and regions. With it: latents too, from the stored pixels where they exist.
    """
    settings = needed_recipe(pipeline, recipes, hashed(overrides, hash_paths, follow_links), "build")
    from usjepa.cache.building.build import build as build_store
    from usjepa.cache.building.request import BuildRequest

    build_store(store, settings, BuildRequest(**request))


@click.command(cls=Command)
@click.argument("store")
@steal_option
@ends_well
def seal(store: str, steal: bool) -> None:
    """Seal a STORE whose parts (`build --part I/N`) have all ended."""
    from usjepa.cache.building.build import seal as seal_store

    seal_store(store, steal)


@click.command(cls=Command)
@click.argument("store")
@ends_well
def status(store: str) -> None:
    """Show what is written, what failed and why, and what is not there yet, per layer."""
    from usjepa.cache.upkeep.status import status_report

    click.echo(status_report(store))
