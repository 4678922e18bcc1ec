"""Start a child process that ends with this one, whatever either is doing.

This process alone holds the writing end of a pipe, into which nothing is ever written. The child has the system send it
SIGIO, which ends it, when that end closes. No line of the child has to run for that: it ends in the middle of a
decoder's C code too, and also where this process was killed. (The signal for a parent's death that Linux offers,
PR_SET_PDEATHSIG, comes when the *thread* ends that started the child.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from io import FileIO

NOT_HANDED_DOWN = {"MALLOC_TRIM_THRESHOLD_"}
"""Variables that no child has. Dask sets this one for its workers, whose children would decode 1.7 times as long, in
fresh memory for each array."""
_ENDS_WITHIN_S = 5.0
"""Seconds that a child has to end in. One that is stuck in a disk or share that does not answer is left behind: the
system ends it when it can."""


class Surroundings(NamedTuple):
    """What a child takes over from this process when it starts."""

    folder: str
    """Where relative paths begin; empty where the folder is gone."""
    variables: dict[str, str]

    @classmethod
    def now(cls) -> Surroundings:
        """Return those of a child that were started now."""
        try:
            folder = os.getcwd()
        except FileNotFoundError:
            folder = ""
        return cls(folder, {name: value for name, value in os.environ.items() if name not in NOT_HANDED_DOWN})


class Child:
    """A child process that runs a module of ours, and this process's end of a socket to it; ends when it is dropped."""

    def __init__(self, module: str) -> None:
        """Start `python -m MODULE SOCKET PIPE`."""
        self.surroundings = Surroundings.now()
        self.socket, theirs = socket.socketpair()
        pipe, lifeline = os.pipe()
        self._lifeline = os.fdopen(lifeline, "wb", buffering=0)
        try:
            # A session of its own: Ctrl-C reaches the leading process alone.
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(pipe)],
                pass_fds=[theirs.fileno(), pipe],
                start_new_session=True,
                env=self.surroundings.variables,
            )
        finally:
            theirs.close()
            os.close(pipe)
        self.end = weakref.finalize(self, _end, self.process, self.socket, self._lifeline)
        """Kill the child: it has nothing to save, and may be deep in a decoder."""
        _children.add(self)

    def how_it_ended(self) -> str:
        """Return how a child ended that has closed its end of the socket, for a message."""
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_ENDS_WITHIN_S)
        if code is not None and code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def let_go(self) -> None:
        """Forget, in a forked copy of this process, a child that is not its own."""
        self.end.detach()
        self.socket.close()
        self._lifeline.close()


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for child in list(_children):
        child.let_go()
    _children.clear()


os.register_at_fork(after_in_child=_let_go_of_all)


def _end(process: subprocess.Popen[bytes], wire: socket.socket, lifeline: FileIO) -> None:
    process.kill()
    wire.close()
    lifeline.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDS_WITHIN_S)


def end_with_parent(pipe: int) -> None:
    """Have the system end this process when the other end of a pipe closes."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it closed before
        sys.exit(1)
