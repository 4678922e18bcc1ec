"""Define the commands that build nothing: recipe, teachers, scan and plan."""

from __future__ import annotations

from typing import Any

import click

from usjepa.cache.command_line import Command, ends_well, recipe_options
from usjepa.cache.commands.options import device_option, follow_links_option, hash_paths_option, hashed, needed_recipe


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--recipes", type=click.Path(dir_okay=False), default=None, help="A recipe file of your own.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one field. Repeatable.")
@ends_well
def recipe(name: str | None, recipes: str | None, overrides: tuple[str, ...]) -> None:
    """Print a recipe with every setting, its meaning and unit; without NAME, list the recipes."""
    from usjepa.cache.recipes.describe import describe_recipe
    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if name is None:
        for known in recipe_names(recipes):
            click.echo(f"{known:12s} {load_recipe(known, (), recipes).description}")
        return
    click.echo(describe_recipe(load_recipe(name, overrides, recipes)), nl=False)


@click.command(cls=Command)
@click.argument("name", required=False)
@ends_well
def teachers(name: str | None) -> None:
    """List the published teachers that are known by name; with NAME, all that is known of one.

    `--teacher NAME=FILE` then gives its weights the architecture, input and normalisation that they need.
    """
    from usjepa.cache.teacher.names.describe import one_preset, preset_lines

    for line in preset_lines() if name is None else one_preset(name):
        click.echo(line)


@click.command(cls=Command)
@click.argument("source")
@hash_paths_option
@follow_links_option
@click.option("--names", is_flag=True, help="With --hash-paths: print which hash stands for which file, and no more.")
@recipe_options
@ends_well
def scan(
    source: str,
    hash_paths: bool,
    follow_links: bool,
    names: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Report what SOURCE holds: files, frames, sizes, groups, labels, duplicates, unreadable ones.

    SOURCE is a folder, a file, a manifest CSV or `phantom`. Nothing is written.
    """
    from usjepa.cache.recipes.recipe import load_recipe
    from usjepa.cache.scanning.scan import list_source, scan_report

    settings = load_recipe(pipeline or "us-jepa", hashed(overrides, hash_paths, follow_links), recipes)
    if names:
        for hidden, path in list_source(source, settings.cache, groups=False).real.items():
            click.echo(f"{hidden}  {path}")
        return
    click.echo(scan_report(source, settings))


@click.command(cls=Command)
@click.argument("source", required=False)
@click.option("--teacher", default=None, help="As for build. Default: pixels only.")
@click.option("--target", default=None, help="Folder that the store will lie in. Default: the working folder.")
@device_option
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="About how long to measure."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@recipe_options
@ends_well
def plan(
    source: str | None,
    as_json: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure SOURCE, teacher and target; predict what a build will take and when caching pays.

    A temporary folder is made on the target and removed again. SOURCE defaults to the recipe's own.
    """
    import json
    import time

    began = time.perf_counter()
    settings = needed_recipe(pipeline, recipes, overrides, "plan")
    from usjepa.cache.planning.plan import plan as plan_build
    from usjepa.cache.planning.report import describe

    found = plan_build(source, settings, began=began, **options)
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else describe(found))
