"""Define the commands for a store that exists: verify, audit, diff, stats and inspect."""

from __future__ import annotations

import sys
from typing import Any

import click

from usjepa.cache.command_line import Command, ends_well, recipe_options
from usjepa.cache.commands.options import device_option, hash_paths_option, hashed, needed_recipe
from usjepa.cache.errors import DamageError, UsageError


@click.command(cls=Command)
@click.argument("store")
@click.option("--quick", is_flag=True, help="Sizes, tables, indexes and records only; rows are not read.")
@click.option("--sources", is_flag=True, help="Hash the source files again instead; needs --pipeline (and --source).")
@click.option("--repair", is_flag=True, help="Mend what is damaged; needs --pipeline, --source and --teacher as built.")
@click.option("--source", default=None, help="Where the sources lie now. Default: the recipe's own.")
@click.option("--teacher", default=None, help="The teacher that computes damaged latents again.")
@device_option
@click.option("--steal", is_flag=True, help="With --repair: take over from a builder that you know is dead.")
@hash_paths_option
@recipe_options
@ends_well
def verify(store: str, quick: bool, sources: bool, repair: bool, hash_paths: bool, **options: Any) -> None:
    """Check every byte of STORE against what was built; exit code 3 when something is damaged.

    With --repair, rows that are good are kept, the others are made again and must come out as they were; exit code 3
    when something could not be mended.
    """
    if quick + sources + repair > 1:
        raise UsageError("--quick, --sources and --repair are three different jobs: give one of them.")
    options["overrides"] = hashed(options["overrides"], hash_paths)
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
        missing = sum(damage.what.startswith("missing") for damage in report.damages)
        of = f"{missing:,} files are missing, as in a copy that was cut. " if missing else ""
        click.echo(f"{of}From a whole copy: usjepa-cache copy --resume COPY STORE")
        sys.exit(DamageError.exit_code)


def _repair(store: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    settings = needed_recipe(pipeline, recipes, overrides, "--repair")
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
    settings = needed_recipe(pipeline, recipes, overrides, "--sources").cache
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


@click.command(cls=Command)
@click.argument("store")
@click.option("--teacher", required=True, help="The teacher that the latents were built with, as for build.")
@click.option("--rows", type=click.IntRange(min=4), default=64, show_default=True, help="Rows to compute again.")
@device_option
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
    """Compute a sample of STORE again with the teacher and compare; exit code 3 when it differs."""
    settings = needed_recipe(pipeline, recipes, overrides, "audit")
    from usjepa.cache.upkeep.audit import audit as audit_store

    found = audit_store(store, settings, teacher, rows, device, not no_record)
    for one in found:
        click.echo(str(one))
    if not all(one.passed for one in found):
        sys.exit(DamageError.exit_code)


@click.command(cls=Command)
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
    settings = needed_recipe(pipeline, recipes, overrides, "diff")
    from usjepa.cache.upkeep.diff import diff as diff_store

    found = diff_store(store, settings, teacher)
    click.echo("\n".join(found.lines))
    if found.hard:
        sys.exit(UsageError.exit_code)


@click.command(cls=Command)
@click.argument("store")
@click.option("--teacher", default=None, help="Whose latents, when the store has several.")
@click.option("--dask", default=None, metavar="ADDRESS", help="Compute on a Dask cluster, or with `local:N` processes.")
@click.option("-o", "--output", default=None, help="Write every channel's mean and variance there, as JSON.")
@ends_well
def stats(store: str, teacher: str | None, dask: str | None, output: str | None) -> None:
    """Describe the latents of STORE per dataset: effective rank, constant channels, duplicates."""
    import json
    from pathlib import Path

    from usjepa.cache.storage.durable import check_output, write_durably
    from usjepa.cache.upkeep.stats import stats as stats_of

    if output is not None:
        check_output(Path(output))
    found = stats_of(store, teacher, dask)
    if output is not None:
        write_durably(Path(output).absolute(), json.dumps(found.to_json(), indent=1).encode() + b"\n")
    click.echo(str(found))


@click.command(cls=Command)
@click.argument("store")
@click.option("-o", "--output", default=None, help="Draw a contact sheet, and write it there (.png).")
@click.option(
    "--html", "folder", default=None, metavar="DIR", help="Write DIR/index.html: a page to filter, sort and click in."
)
@click.option(
    "--rows",
    type=click.IntRange(1, 1000),
    default=None,
    help="Rows to show, doubtful ones first. Default: 8 (64 at most) on a sheet, 200 on a page.",
)
@click.option("--dataset", default=None, help="Show rows of this dataset.")
@click.option("--teacher", default=None, help="Whose latents to show, when the store has several.")
@click.option("--source", default=None, help="Where the sources lie: the frame as it was stands beside what is kept.")
@hash_paths_option
@recipe_options
@ends_well
def inspect(
    store: str,
    output: str | None,
    folder: str | None,
    rows: int | None,
    dataset: str | None,
    teacher: str | None,
    source: str | None,
    hash_paths: bool,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Show rows as frame | scan region | latents in colours; the doubtful first.

    With -o as a picture. With --html as one page, which works from a disk and without network: filter by dataset,
    label, split and group, sort by doubtful region, blank, duplicate or outlier, and click on a patch for the most
    similar patches of other patients. With --source and the recipe of the build, the frame as it was stands before
    what is kept.
    """
    if (output is None) == (folder is None):
        raise UsageError("inspect writes one of two: a picture (-o FILE.png) or a page (--html DIR).")
    from usjepa.cache.recipes.recipe import load_recipe

    settings = load_recipe(pipeline or "us-jepa", hashed(overrides, hash_paths), recipes).cache
    if folder is not None:
        from usjepa.cache.inspecting.page import write_page

        click.echo("\n".join(write_page(store, folder, rows or 200, teacher, dataset, source, settings)))
        return
    from usjepa.cache.inspecting.sheet import write_sheet

    if rows is not None and rows > 64:
        raise UsageError(f"--rows {rows}: a sheet has at most 64; a page (--html DIR) has more.")
    spacing = write_sheet(store, str(output), rows or 8, teacher, dataset, source, settings)
    click.echo(f"{output}\n{spacing}")
