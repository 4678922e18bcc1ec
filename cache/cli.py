"""Assemble the `usjepa-cache` command line, which answers --help at once."""

from __future__ import annotations

import click

from usjepa.cache.command_line import Group, version_option
from usjepa.cache.commands import build, doctor, life, preview, upkeep


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@version_option
def main() -> None:
    """Stage one: run a frozen teacher over ultrasound frames once, into a checked Zarr store."""


for command in (
    preview.recipe, preview.teachers, preview.scan, preview.plan,
    build.build, build.seal, build.status,
    life.copy, life.gc, life.remove, life.convert, life.export,
    doctor.doctor, upkeep.verify, upkeep.audit, upkeep.diff, upkeep.stats, upkeep.inspect,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
