"""Child processes that start with everything imported: a kill test costs milliseconds, not the import of timm."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any

from usjepa.cache.command_line import log_lines_on_stderr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.preload"])


def _with_stderr(path: Path | None, function: Callable[..., None], *args: Any) -> None:
    # The forkserver keeps the stderr of whichever test started it: a child's words must be caught in a file.
    if path is not None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 2)
        os.close(handle)
    with log_lines_on_stderr():
        function(*args)


def start(function: Callable[..., None], *args: Any, stderr: Path | None = None) -> multiprocessing.process.BaseProcess:
    """Start `function(*args)` in a fresh child of a parent that has imported torch, timm and usjepa."""
    process = _CONTEXT.Process(target=_with_stderr, args=(stderr, function, *args))
    process.start()
    return process


def run(function: Callable[..., None], *args: Any, timeout: float = 120, stderr: Path | None = None) -> int:
    """Run `function(*args)` in such a child and return its exit code (-9 after SIGKILL)."""
    process = start(function, *args, stderr=stderr)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"{function.__name__} did not end within {timeout} s")
    return process.exitcode


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
                os.kill(os.getpid(), number)
            return real[name](*args, **kwargs)

        return call

    os.fsync = counted("fsync")
    os.replace = counted("replace")
