"""Define the commands for the life of a store: copy, gc, remove, convert and export."""

from __future__ import annotations

from typing import Any

import click

from usjepa.cache.command_line import Command, ends_well
from usjepa.cache.commands.options import names_in, steal_option


@click.command(cls=Command)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--layers", multiple=True, metavar="NAMES", help="Layers or teachers, commas between. Default: all.")
@click.option(
    "--datasets", multiple=True, metavar="NAMES", help="Rows of these datasets, commas between, numbered anew."
)
@click.option("--rows", multiple=True, metavar="FIRST:STOP", help="These rows, numbered anew; commas between ranges.")
@click.option(
    "--resume", is_flag=True, help="Finish a copy that cp, rsync or tar began, or bring an older copy up to date."
)
@steal_option
@ends_well
def copy(
    source: str,
    target: str,
    layers: tuple[str, ...],
    datasets: tuple[str, ...],
    rows: tuple[str, ...],
    resume: bool,
    steal: bool,
) -> None:
    """Copy the store SRC to DST, folders or URLs, checking every row on the way.

    Run again after an interruption, it goes on. --layers, --datasets and --rows may be repeated; a dataset whose name
    has a comma needs an option of its own. Without --layers, --datasets and --rows the copy is the same byte for
    byte. Nothing damaged is copied: exit code 3 names the row.
    """
    from usjepa.cache.copying.copy import copy_store
    from usjepa.cache.copying.selection import Selection, range_of

    ranges = [range_of(text) for text in names_in("--rows", rows)]
    # Which commas lie within a name the store tells.
    selection = Selection(tuple(names_in("--layers", layers)), datasets, tuple(ranges))
    copy_store(source, target, selection, resume, steal)


@click.command(cls=Command)
@click.argument("store")
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="Newest generations that stay.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("--runs", multiple=True, metavar="FOLDER", help="Where runs lie that could not write a note. Repeatable.")
@click.option("--forget", multiple=True, metavar="RUN", help="A noted run that will never go on. Repeatable.")
@click.option("--unfinished", is_flag=True, help="Delete layers and rows too that were begun and never sealed.")
@steal_option
@ends_well
def gc(
    store: str,
    keep: int,
    dry_run: bool,
    runs: tuple[str, ...],
    forget: tuple[str, ...],
    unfinished: bool,
    steal: bool,
) -> None:
    """Delete what no kept generation of STORE names, after saying what and how much.

    Kept are the newest generation and those that unfinished trainings need, which note that in the store.
    """
    from usjepa.cache.thinning.collect import collect

    collect(store, keep, dry_run, runs, forget, unfinished, steal)


@click.command(cls=Command)
@click.argument("store")
@click.option("--group", "groups", multiple=True, help="All sources of this group: a patient, a clip. Repeatable.")
@click.option("--source", "sources", multiple=True, help="This source, by its path in the store. Repeatable.")
@click.option(
    "--dataset", "datasets", multiple=True, help="All of this data set; with --group, its groups only. Repeatable."
)
@click.option("--runs", multiple=True, metavar="FOLDER", help="Where runs lie: those that saw the rows are named.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@steal_option
@ends_well
def remove(
    store: str,
    groups: tuple[str, ...],
    sources: tuple[str, ...],
    datasets: tuple[str, ...],
    runs: tuple[str, ...],
    dry_run: bool,
    steal: bool,
) -> None:
    """Remove sources from STORE, as when a patient withdraws: their rows become holes, and their bytes go.

    Shards are written anew without them; other rows keep their numbers and bytes. Then run gc: earlier generations may
    still name files. Interrupted, the same command goes on.
    """
    from usjepa.cache.thinning.remove import remove as remove_from
    from usjepa.cache.thinning.withdrawal import Choice

    remove_from(store, Choice(groups, sources, datasets), runs, dry_run, steal)


@click.command(cls=Command)
@click.argument("store")
@click.option(
    "--precision", type=click.Choice(["int4", "int8", "fp16", "fp32"]), required=True, help="Of the new layer."
)
@click.option(
    "--axes", type=click.IntRange(1), default=None, help="Keep so many principal axes. Default: all channels."
)
@click.option("--teacher", default=None, help="Whose latents, when the store has several.")
@click.option("--name", default=None, help="Of the new layer. Default: the teacher's and the form.")
@steal_option
@ends_well
def convert(store: str, precision: Any, axes: int | None, teacher: str | None, name: str | None, steal: bool) -> None:
    """Make a layer of another precision, or on fewer axes, from stored latents of STORE, without the teacher.

    Every row is then read back and compared with the original; the manifest keeps how near it is. Run it again after
    the store has grown.
    """
    from usjepa.cache.converting.convert import convert as convert_layer

    convert_layer(store, precision, teacher, name, steal, axes)


@click.command(cls=Command)
@click.argument("store")
@click.argument("output")
@click.option("--format", "format_", type=click.Choice(["parquet", "npy", "webdataset"]), required=True)
@click.option("--layers", multiple=True, metavar="NAMES", help="Layers, commas between. Repeatable. Default: all.")
@steal_option
@ends_well
def export(store: str, output: str, format_: str, layers: tuple[str, ...], steal: bool) -> None:
    """Write the rows of STORE as plain files into the folder OUTPUT, every row checked.

    Run again after an interruption, it goes on; on a finished export it reads every file and makes those anew that are
    not what it wrote.
    """
    from usjepa.cache.converting.export import export as export_rows

    export_rows(store, output, format_, names_in("--layers", layers), steal)
