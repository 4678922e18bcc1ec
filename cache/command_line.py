"""Give the three command lines shared options, log lines, error messages and exit codes.

Nothing heavy is imported here: `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import re
import resource
import sys
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from usjepa.cache.errors import Interrupted, UsjepaError
from usjepa.cache.interrupt import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ADVICE = {
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Free some space and run the same command again.",
    errno.EACCES: "Change its permissions, or give another place.",
    errno.EPERM: "Change its permissions, or give another place.",
    errno.EROFS: "It can't be written: give another place.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Check the path.",
    errno.EEXIST: "Check the path.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENOMEM: "Free some memory and run the same command again.",
}
RAISE_TO = 65536
"""Open files that a command asks for. Not all that the system would give, often millions: there are programs that close
every number up to the limit before they start another."""
_OTHERWISE = "See the system's log; run the same command again."
_SMALLER = "smaller batches (cache.teacher.batch_size, train.batch_size)"
_CPU_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator: .*(tried to allocate \d+ bytes)")
"""Matches the plain RuntimeError that torch raises when the CPU has too little memory."""

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
    """End a command with one readable message and the error's exit code; only a bug of ours keeps its traceback.

    What the system or the GPU refuses ends with 1. Ctrl-C or SIGTERM that reaches no safe point of its own still ends
    with 75: run the same command again. The limit of open files is raised first: stores have many.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        allow_many_files()
        try:
            with sigterm_as_ctrl_c(), log_lines_on_stderr():
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
        except BrokenPipeError:
            raise  # whoever reads has seen enough; click ends without a word
        except (OSError, MemoryError, RuntimeError) as error:
            message = _refusal(error)
            if message is None:
                raise
            click.echo(f"error: {message}", err=True)
            sys.exit(UsjepaError.exit_code)

    return guarded


def _refusal(error: OSError | MemoryError | RuntimeError) -> str | None:
    """Return what the system or the GPU refused, where, and what to do; None for an error of ours."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}. {_ADVICE.get(error.errno or 0, _OTHERWISE)}"
    if isinstance(error, MemoryError):
        return f"out of memory ({error}). {_ADVICE[errno.ENOMEM]}"
    if found := _CPU_OUT_OF_MEMORY.search(str(error)):
        return f"out of memory ({found[1]}). Set {_SMALLER}, or free some memory."
    torch = sys.modules.get("torch")  # if it is not imported, the error is not its
    if torch is None or not isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        return None
    first = str(error).strip().splitlines()[0].rstrip(".")
    if isinstance(error, torch.OutOfMemoryError):
        return f"{first}. Set {_SMALLER}, free the GPU, or use --device cpu."
    return f"{first}. {_OTHERWISE}"
