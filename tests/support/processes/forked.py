"""Start child processes that have everything imported, so that a kill test costs milliseconds."""

from __future__ import annotations

import faulthandler
import functools
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.command_line import log_lines_on_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 240.0
"""A child that lives longer prints the stacks of all its threads and exits with 1; pytest's own limit is 300."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.processes.preload"])


def _begin(stderr: Path | None, limit_s: float, function: Callable[..., None], *args: Any) -> None:
    # The forkserver keeps the stderr of whichever test started it: a child's words must be caught in a file.
    if stderr is not None:
        handle = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 2)
        os.close(handle)
    faulthandler.dump_traceback_later(limit_s, exit=True)
    with log_lines_on_stderr():
        function(*args)


def start(
    function: Callable[..., None], *args: Any, stderr: Path | None = None, limit_s: float = LIMIT_S
) -> multiprocessing.process.BaseProcess:
    """Start `function(*args)` in a fresh child of a parent that has imported torch, timm and usjepa."""
    process = _CONTEXT.Process(target=_begin, args=(stderr, limit_s, function, *args))
    process.start()
    return process


def run(function: Callable[..., None], *args: Any, stderr: Path | None = None, limit_s: float = LIMIT_S) -> int:
    """Run `function(*args)` in such a child and return its exit code (-9 after SIGKILL).

    What it writes to stderr goes to the file, or to this process's stderr, which pytest shows where the test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr"
        process = start(function, *args, stderr=stderr or log, limit_s=limit_s)
        process.join()
        if stderr is None and log.exists():
            sys.stderr.write(log.read_text(errors="replace"))
    assert process.exitcode is not None
    return process.exitcode


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run the body of a test in such a child: one that forks, kills children, or holds a loader, queue, pool or client.

    What these leave in a process (a handler of SIGCHLD, feeder threads, finalizers that wait for a lock) would meet
    another test there. Fixtures reach the body by pickling. Warnings are errors, and so is an exception in a finalizer.
    """

    @functools.wraps(test)
    def outside(**fixtures: Any) -> None:
        assert run(_strictly, outside, fixtures) == 0, f"{test.__name__} failed in its own process: see its stderr"

    return outside


def _strictly(test: Callable[..., None], fixtures: dict[str, Any]) -> None:
    unraisable: list[str] = []

    def note(found: sys.UnraisableHookArgs) -> None:
        unraisable.append(repr(found.exc_value))
        sys.__unraisablehook__(found)

    sys.unraisablehook = note
    warnings.simplefilter("error")
    # Python 3.12 counts the watchdog of `_begin` as a thread that a fork might lose.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    test.__wrapped__(**fixtures)  # type: ignore[attr-defined]  # by functools.wraps
    gc.collect()
    assert not unraisable


def stop_here() -> None:
    """Stop this process in this thread's next line, until it is told to go on.

    A signal for the whole process is taken by its main thread, once that has a processor; till then this one would go
    on.
    """
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def is_stopped(process: multiprocessing.process.BaseProcess) -> bool:
    """Return whether no thread of a process runs any more, as it was stopped."""
    try:
        tasks = [task / "stat" for task in Path(f"/proc/{process.pid}/task").iterdir()]
        return process.is_alive() and {stat.read_text().rpartition(")")[2].split()[0] for stat in tasks} == {"T"}
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended since they were listed
        return False


def die_at_durable_step(step: int) -> None:
    """Make this process SIGKILL itself at the step-th fsync or rename from now on: between any two durable states."""
    signal_at_durable_step(step, signal.SIGKILL)


def signal_at_durable_step(step: int, number: signal.Signals) -> None:
    """Make this process send itself a signal just before the step-th fsync or rename from now on."""
    count = 0
    real: dict[str, Callable[..., Any]] = {"fsync": os.fsync, "replace": os.replace}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                stop_here() if number == signal.SIGSTOP else os.kill(os.getpid(), number)
            return real[name](*args, **kwargs)

        return call

    os.fsync = counted("fsync")
    os.replace = counted("replace")
