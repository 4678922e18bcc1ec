"""What the three CLIs share: recipe options, error endings and exit codes. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from usjepa.cache.errors import Interrupted, UsjepaError
from usjepa.cache.reading.handles import allow_many_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")


def recipe_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add `--pipeline NAME`, `--recipes FILE` and `--set section.key=value` (repeatable) to a command."""
    for option in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one field of the recipe, e.g. train.lr=1e-4. Repeatable.",
        ),
        click.option(
            "--recipes",
            type=click.Path(dir_okay=False),
            default=None,
            help="A recipe file of your own in place of the built-in pipelines.yaml.",
        ),
        click.option("--pipeline", default=None, help="Recipe name: demo, small, us-jepa, usrc-jepa."),
    ):
        command = option(command)
    return command


class _Terminal(logging.Handler):
    """Prints log lines to stderr as they are, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; what is no plain report says its level first."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = level + self.format(record)
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()
        else:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def log_lines_on_stderr() -> Iterator[None]:
    """Print what the package reports (INFO and above) for the length of a `with` block."""
    reports, terminal = logging.getLogger("usjepa"), _Terminal()
    before = reports.level
    reports.addHandler(terminal)
    reports.setLevel(logging.INFO)
    try:
        yield
    finally:
        reports.setLevel(before)
        reports.removeHandler(terminal)


def ends_well(command: Callable[P, T]) -> Callable[P, T]:
    """End a command with one readable message and the error's exit code, never with a bare traceback.

    It begins by raising the limit of open files: stores have many.
    Ctrl-C that reaches no safe point of its own still ends with 75: run the same command again.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        allow_many_files()
        try:
            with log_lines_on_stderr():
                return command(*args, **kwargs)
        except Interrupted as error:
            click.echo(f"interrupted: {error}", err=True)
            sys.exit(error.exit_code)
        except UsjepaError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted: run the same command again to go on.", err=True)
            sys.exit(Interrupted.exit_code)

    return guarded
