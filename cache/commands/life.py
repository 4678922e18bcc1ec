"""Define the commands for the life of a store: copy."""

from __future__ import annotations

import click

from usjepa.cache.command_line import ends_well
from usjepa.cache.commands.options import steal_option


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--layers", default=None, metavar="NAMES", help="Layers or teachers, commas between. Default: all.")
@click.option(
    "--datasets", default=None, metavar="NAMES", help="Rows of these datasets, commas between, numbered anew."
)
@click.option("--rows", default=None, metavar="FIRST:STOP", help="These rows, numbered anew; commas between ranges.")
@click.option(
    "--resume", is_flag=True, help="Finish a copy that cp, rsync or tar began, or bring an older copy up to date."
)
@steal_option
@ends_well
def copy(
    source: str, target: str, layers: str | None, datasets: str | None, rows: str | None, resume: bool, steal: bool
) -> None:
    """Copy the store SRC to DST, folders or URLs, checking every row on the way.

    Run again after an interruption, it goes on. Without --layers, --datasets and --rows the copy is the same byte for
    byte. Nothing damaged is copied: exit code 3 names the row.
    """
    from usjepa.cache.copying.copy import copy_store
    from usjepa.cache.copying.selection import Selection

    copy_store(source, target, Selection.parse(layers, datasets, rows), resume, steal)
