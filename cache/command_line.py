"""Give the three command lines shared options, log lines, error messages and exit codes.

Nothing heavy is imported here: `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import resource
import sys
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

from usjepa.cache.errors import Interrupted, UsageError, UsjepaError
from usjepa.cache.interrupt import sigterm_as_ctrl_c
from usjepa.cache.terminal.refusals import refusal
from usjepa.cache.terminal.streams import shown, use_safe_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RAISE_TO = 65536
"""Open files that a command asks for. Not all that the system would give, often millions: there are programs that close
every number up to the limit before they start another."""
P = ParamSpec("P")
T = TypeVar("T")


def version_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add `--version` to a command: the version of the package that is installed."""
    return click.version_option(package_name="usjepa", message="%(package)s %(version)s")(command)


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


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may by itself, to `RAISE_TO`.

    Systems start programs with 1,024 for the sake of `select`, which can't name more and which nothing here uses.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RAISE_TO if most == resource.RLIM_INFINITY else min(RAISE_TO, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        # macOS names no limit and refuses more than it has: what was allowed before serves as well, only slower.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Terminal(logging.Handler):
    """Prints log lines to stderr as they are, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; what is no plain report says its level first."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = shown(level + self.format(record))
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
    """End a command with one readable message and the error's exit code; only a bug of ours keeps its traceback.

    What the system or the GPU refuses ends with 1, and so does a result that can't be written (a full disk behind `>`).
    Ctrl-C or SIGTERM that reaches no safe point of its own still ends with 75: run the same command again. The limit of
    open files is raised first: stores have many.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        allow_many_files()
        try:
            with sigterm_as_ctrl_c(), log_lines_on_stderr():
                _refuse_empty_options()
                return command(*args, **kwargs)
        except Interrupted as error:
            _end(f"interrupted: {error}", error.exit_code)
        except UsjepaError as error:
            _end(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            _end("interrupted: run the same command again to go on.", Interrupted.exit_code)
        except (OSError, MemoryError, RuntimeError, ImportError) as error:
            message = refusal(error)
            if message is None:
                raise
            _end(f"error: {message}", UsjepaError.exit_code)

    return guarded


def _refuse_empty_options() -> None:
    """Raise UsageError for an option whose text is empty: one that is taken for none would widen what is done."""
    context = click.get_current_context(silent=True)
    for option in context.command.params if context is not None else ():
        given = context.params.get(option.name or "") if context is not None else None
        texts = given if isinstance(given, tuple) else (given,)
        if isinstance(option, click.Option) and any(isinstance(text, str) and not text.strip() for text in texts):
            raise UsageError(f"{option.opts[-1]}: is given nothing, as by a variable that is not set. Leave it out.")


def _end(message: str, code: int) -> NoReturn:
    click.echo(shown(message), err=True)
    sys.exit(code)


class _OnSafeStreams(click.Command):
    """A command that first makes the process's standard streams safe to write to; see `terminal.py`."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command that the arguments name, and end the process."""
        use_safe_streams()
        try:
            return super().main(*args, **extra)
        except OSError as error:  # from --help and the like, which no command of ours guards
            _end(f"error: {refusal(error)}", UsjepaError.exit_code)


class Command(_OnSafeStreams):
    """A command line of one command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse an option of one value that is given twice: the first would be left out in silence."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option in (one for one in given if isinstance(one, click.Option)):
            if not (option.multiple or option.is_flag) and given.count(option) > 1:
                raise click.UsageError(f"{option.opts[-1]} is given more than once, and takes one value.", ctx)
        return super().parse_args(ctx, args)


class Group(_OnSafeStreams, click.Group):
    """A command line of several commands."""


class CommandBeside(Command):
    """A command whose first word may be the name of another, which then runs; a folder of that name is `./NAME`."""

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.others: dict[str, click.Command] = {}

    def beside(self, other: click.Command) -> click.Command:
        """Take another command in, under its own name."""
        assert other.name is not None
        self.others[other.name] = other
        return other

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command that the arguments name."""
        words = list(sys.argv[1:] if args is None else args)
        other = self.others.get(words[0]) if words else None
        if other is None:
            return super().main(words, *rest, **extra)
        extra["prog_name"] = f"{self.name} {other.name}"
        return other.main(words[1:], *rest[1:], **extra)
