"""The `usjepa-cache` command. Everything heavy is imported within a command, so that --help answers at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from usjepa.cache.command_line import ends_well, recipe_options
from usjepa.cache.errors import DamageError, UsageError

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Stage one: run a frozen teacher over ultrasound frames once, into a checked Zarr store."""


_hash_paths = click.option(
    "--hash-paths", is_flag=True, help="Name sources and groups by hashes; short for --set cache.hash_paths=true."
)


def _hashed(overrides: tuple[str, ...], hash_paths: bool) -> tuple[str, ...]:
    return (*overrides, "cache.hash_paths=true") if hash_paths else overrides


@main.command()
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


@main.command()
@click.argument("source")
@_hash_paths
@click.option("--names", is_flag=True, help="With --hash-paths: print which hash stands for which file, and no more.")
@recipe_options
@ends_well
def scan(
    source: str,
    hash_paths: bool,
    names: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Say what SOURCE holds: files, frames, sizes, groups, labels, duplicates, unreadable ones.

    SOURCE is a folder, a file, a manifest CSV or `phantom`. Nothing is written.
    """
    from usjepa.cache.recipes.recipe import load_recipe
    from usjepa.cache.scanning.scan import list_source, scan_report

    settings = load_recipe(pipeline or "us-jepa", _hashed(overrides, hash_paths), recipes)
    if names:
        for hidden, path in list_source(source, settings.cache).real.items():
            click.echo(f"{hidden}  {path}")
        return
    click.echo(scan_report(source, settings))


@main.command()
@click.argument("source", required=False)
@click.option("--teacher", default=None, help="As for build. Default: pixels only.")
@click.option("--target", default=None, help="Folder that the store will lie in. Default: the working folder.")
@click.option("--device", default=None, help="Torch device of the teacher. Default: a GPU when there is one.")
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
    **asked: Any,
) -> None:
    """Measure SOURCE, teacher and target; say what a build will take and when caching pays.

    A temporary folder is made on the target and removed again. SOURCE defaults to the recipe's own.
    """
    import json
    import time

    began = time.perf_counter()
    settings = _needed_recipe(pipeline, recipes, overrides, "plan")
    from usjepa.cache.planning.plan import plan as plan_build
    from usjepa.cache.planning.report import describe

    found = plan_build(source, settings, began=began, **asked)
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else describe(found))


@main.command()
@click.argument("store")
@click.option("--source", default=None, help="Folder, file, manifest CSV or `phantom`. Default: the recipe's own.")
@click.option(
    "--teacher",
    default=None,
    help="Checkpoint file, run folder, timm name, `random`, or module:function. Default: pixels only.",
)
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default=None, help="What an unreadable file does.")
@click.option("--steal", is_flag=True, help="Take over from a builder that you know is dead, without waiting.")
@click.option("--device", default=None, help="Torch device of the teacher. Default: a GPU when there is one.")
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
@_hash_paths
@recipe_options
@ends_well
def build(
    store: str,
    hash_paths: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    **request: Any,
) -> None:
    """Build STORE, or go on where an earlier build stopped.

    Without --teacher: pixels and regions. With it: latents too, from the stored pixels where they exist.
    """
    settings = _needed_recipe(pipeline, recipes, _hashed(overrides, hash_paths), "build")
    from usjepa.cache.building.build import build as build_store

    build_store(store, settings, **request)


@main.command()
@click.argument("store")
@click.option("--steal", is_flag=True, help="Take over from a builder that you know is dead, without waiting.")
@ends_well
def seal(store: str, steal: bool) -> None:
    """Seal a STORE whose parts (`build --part I/N`) have all ended."""
    from usjepa.cache.building.build import seal as seal_store

    seal_store(store, steal)


@main.command()
@click.argument("store")
@ends_well
def status(store: str) -> None:
    """Say what is written, what failed and why, and what is not there yet, per layer."""
    from usjepa.cache.upkeep.status import status_report

    click.echo(status_report(store))


@main.command()
@click.argument("store")
@click.option("--quick", is_flag=True, help="Sizes, tables, indexes and records only; rows are not read.")
@click.option("--sources", is_flag=True, help="Hash the source files again instead; needs --pipeline (and --source).")
@click.option("--repair", is_flag=True, help="Mend what is damaged; needs --pipeline, --source and --teacher as built.")
@click.option("--source", default=None, help="Where the sources lie now. Default: the recipe's own.")
@click.option("--teacher", default=None, help="The teacher that damaged latents are asked of again.")
@click.option("--device", default=None, help="Torch device of the teacher. Default: a GPU when there is one.")
@click.option("--steal", is_flag=True, help="With --repair: take over from a builder that you know is dead.")
@_hash_paths
@recipe_options
@ends_well
def verify(store: str, quick: bool, sources: bool, repair: bool, hash_paths: bool, **options: Any) -> None:
    """Check every byte of STORE against what was built; exit code 3 when something is damaged.

    With --repair, rows that are good are kept, the others are made again and must come out as they were; exit code 3
    when something could not be mended.
    """
    if quick + sources + repair > 1:
        raise UsageError("--quick, --sources and --repair are three different jobs: give one of them.")
    options["overrides"] = _hashed(options["overrides"], hash_paths)
    if repair:
        _repair(store, **options)
        return
    from usjepa.cache.upkeep.verify import verify as verify_store

    if sources:
        _verify_sources(store, **options)
        return
    report = verify_store(store, quick)
    for damage in report.damages:
        click.echo(str(damage))
    click.echo(report.summary)
    if report.damages:
        click.echo("Mend it: usjepa-cache verify STORE --repair --pipeline NAME --source FOLDER --teacher FILE")
        sys.exit(DamageError.exit_code)


def _needed_recipe(pipeline: str | None, recipes: str | None, overrides: tuple[str, ...], job: str) -> Recipe:
    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if pipeline is None:
        raise UsageError(f"{job} needs --pipeline NAME, one of: {', '.join(recipe_names(recipes))}.")
    return load_recipe(pipeline, overrides, recipes)


def _repair(store: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    settings = _needed_recipe(pipeline, recipes, overrides, "--repair")
    from usjepa.cache.upkeep.repair import repair as repair_store

    report = repair_store(store, settings, **options)
    for line in report.mended:
        click.echo(f"mended: {line}")
    for line in report.left:
        click.echo(f"left: {line}")
    click.echo(f"{len(report.found):,} damages found, {len(report.mended):,} mended, {len(report.left):,} left")
    if report.left:
        sys.exit(DamageError.exit_code)


def _verify_sources(
    store: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...], source: str | None, **_: Any
) -> None:
    settings = _needed_recipe(pipeline, recipes, overrides, "--sources").cache
    from usjepa.cache.upkeep.verify import verify_sources

    place = source or settings.source
    if place is None:
        raise UsageError("--sources needs --source FOLDER: where the files lie now.")
    found = verify_sources(store, place, settings)
    for damage in found:
        click.echo(str(damage))
    click.echo(f"{len(found):,} sources are not what was built" if found else "ok: every source is what was built")
    if found:
        sys.exit(DamageError.exit_code)


@main.command()
@click.argument("store")
@click.option("--teacher", required=True, help="The teacher that the latents were built with, as for build.")
@click.option("--rows", type=click.IntRange(min=4), default=64, show_default=True, help="Rows to ask for again.")
@click.option("--device", default=None, help="Torch device of the teacher. Default: a GPU when there is one.")
@click.option("--no-record", is_flag=True, help="Do not write the result into the manifest.")
@recipe_options
@ends_well
def audit(
    store: str,
    teacher: str,
    rows: int,
    device: str | None,
    no_record: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Ask the teacher again for a sample of STORE and compare; exit code 3 when it says something else."""
    settings = _needed_recipe(pipeline, recipes, overrides, "audit")
    from usjepa.cache.upkeep.audit import audit as audit_store

    found = audit_store(store, settings, teacher, rows, device, not no_record)
    click.echo(str(found))
    if not found.passed:
        sys.exit(DamageError.exit_code)


@main.command()
@click.argument("store")
@click.option("--teacher", default=None, help="As for build. Default: compare pixels and regions only.")
@recipe_options
@ends_well
def diff(
    store: str, teacher: str | None, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...]
) -> None:
    """Compare what STORE holds with what a recipe and a teacher would build, field by field: stored | wanted.

    Exit code 2 when a field that changes numbers differs: a build would refuse.
    """
    settings = _needed_recipe(pipeline, recipes, overrides, "diff")
    from usjepa.cache.upkeep.diff import diff as diff_store

    found = diff_store(store, settings, teacher)
    click.echo("\n".join(found.lines))
    if found.hard:
        sys.exit(UsageError.exit_code)


@main.command()
@click.argument("store")
@click.option("--teacher", default=None, help="Whose latents, when the store has several.")
@click.option("--dask", default=None, metavar="ADDRESS", help="Compute on a Dask cluster, or with `local:N` processes.")
@click.option("-o", "--output", default=None, help="Write every channel's mean and variance there, as JSON.")
@ends_well
def stats(store: str, teacher: str | None, dask: str | None, output: str | None) -> None:
    """Say what the latents of STORE look like per dataset: effective rank, constant channels, duplicates."""
    import json
    from pathlib import Path

    from usjepa.cache.storage.durable import write_durably
    from usjepa.cache.upkeep.stats import stats as stats_of

    found = stats_of(store, teacher, dask)
    if output is not None:
        write_durably(Path(output).absolute(), json.dumps(found.to_json(), indent=1).encode() + b"\n")
    click.echo(str(found))


@main.command()
@click.argument("store")
@click.option("-o", "--output", required=True, help="Where to write the picture (.png).")
@click.option("--rows", type=click.IntRange(1, 64), default=8, show_default=True, help="Rows to show, evenly spaced.")
@click.option("--teacher", default=None, help="Whose latents to show, when the store has several.")
@ends_well
def inspect(store: str, output: str, rows: int, teacher: str | None) -> None:
    """Draw rows as frame | scan region | latents in colours."""
    from usjepa.cache.upkeep.inspect import write_sheet

    write_sheet(store, output, rows, teacher)
    click.echo(output)


if __name__ == "__main__":
    main()
