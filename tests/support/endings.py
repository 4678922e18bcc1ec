"""Run a command in a child process under conditions that a test must not bring about in its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.builds import SMALL
from tests.support.processes import forked
from tests.support.runs import TINY_RUN, TINY_STORE
from usjepa.cache.cli import main as cache
from usjepa.evaluate.cli import main as evaluate
from usjepa.train.cli import main as train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_COMMANDS = {"usjepa-cache": cache, "usjepa-train": train, "usjepa-evaluate": evaluate}
_CAPABILITIES_V3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of linux/capability.h: a header of two words and two times three words of bits."""


DEMO = ("--pipeline", "demo", *(part for field in SMALL for part in ("--set", field)))
"""Options of a build of 20 rows."""
TINY = ("--pipeline", "demo", *(part for field in (*TINY_STORE, *TINY_RUN) for part in ("--set", field)))
"""Options of a training on the phantom store of the session."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    printed: str
    told: str
    """What it wrote to standard error."""


def one_line(found: Ending, code: int, *words: str) -> None:
    """Check that the last line is the message, with these words, and that nothing like a traceback came before it."""
    assert found.code == code, found.told
    assert "Traceback" not in found.told
    last = found.told.splitlines()[-1]
    assert last.startswith("error: "), found.told
    for word in words:
        assert word in last, found.told


def ending(*words: object, within: Path, before: Callable[[], None] | None = None) -> Ending:
    """Run a command (its name first) in a child, in a folder, and return how it ended.

    Args:
        words: the command line.
        within: the child's working folder; two files of its output are left there.
        before: called in the child first.
    """
    out, told = within / "printed.txt", within / "told.txt"
    for file in (out, told):
        file.unlink(missing_ok=True)
    code = forked.run(_command, list(map(str, words)), str(within), str(out), before, stderr=told)
    return Ending(code, out.read_text(), told.read_text())


def _command(words: list[str], within: str, out: str, before: Callable[[], None] | None) -> None:
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.close(handle)
    # Those of the server that forked this child are its own; this process's are the descriptors.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, buffering=1)  # type: ignore[misc]  # noqa: SIM115
    os.chdir(within)
    if before is not None:
        before()
    _COMMANDS[words[0]].main(words[1:], prog_name=words[0])


def drop_privileges() -> None:
    """Make root an ordinary user of its own files: without capabilities, permissions hold for it too."""
    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def lose_streams(*numbers: int) -> None:
    """Close standard streams, as `2>&-` does."""
    for number in numbers:
        os.close(number)
    sys.stdin = sys.__stdin__ = None if 0 in numbers else sys.stdin  # type: ignore[misc, assignment]
    sys.stdout = sys.__stdout__ = None if 1 in numbers else sys.stdout  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = None if 2 in numbers else sys.stderr  # type: ignore[misc, assignment]


def write_to(target: str, *numbers: int) -> None:
    """Send standard streams to a file such as /dev/full; "" is a pipe that nobody reads."""
    if target:
        handle = os.open(target, os.O_WRONLY)
    else:
        reader, handle = os.pipe()
        os.close(reader)
    for number in numbers:
        os.dup2(handle, number)
    os.close(handle)


def permissions_can_hold() -> bool:
    """Return whether `drop_privileges` works here."""
    return bool(os.geteuid()) or sys.platform == "linux"


@contextlib.contextmanager
def forbidden(path: Path, mode: int = 0) -> Iterator[None]:
    """Take the permissions of a path away for the length of a `with` block."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)
