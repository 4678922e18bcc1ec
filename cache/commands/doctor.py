"""Define the command `usjepa-cache doctor`."""

from __future__ import annotations

import click

from usjepa.cache.command_line import Command, ends_well


@click.command(cls=Command)
@click.argument("place", required=False, default=".")
@ends_well
def doctor(place: str) -> None:
    """Look at the installation, the machine and PLACE, a folder or bucket for stores, and say what is amiss.

    Nothing is changed; in a folder, 64 MiB are written and removed again. Exit code 1 where something needed lacks.
    """
    import itertools
    import sys

    from usjepa.cache.doctor.devices import devices
    from usjepa.cache.doctor.machine import machine
    from usjepa.cache.doctor.packages import packages
    from usjepa.cache.doctor.place import place as timed
    from usjepa.cache.errors import UsjepaError

    marks = []
    for finding in itertools.chain(packages(), machine(), devices(), timed(place)):
        click.echo(str(finding))
        marks.append(finding.mark)
    click.echo(f"{marks.count('ok')} ok, {marks.count('note')} to note, {marks.count('lack')} lacking")
    if "lack" in marks:
        sys.exit(UsjepaError.exit_code)
